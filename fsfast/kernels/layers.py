"""Parts of the networks as torch operators: their meaning in torch on the CPU, in Triton on a GPU.

`fsfast.kernels.library` offers them beside the other kernels. Each computes in float32 and rounds once, where a chain
of torch's own operators rounds after every step. `fsfast.backends.torch.networks` puts them into networks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LIBRARY = torch.library.Library("fsfast", "FRAGMENT")
# Compilers must keep the memory order of what they pass: kernels refuse another one.
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

_LIBRARY.define(
    "group_norm_silu(Tensor x, Tensor weight, Tensor bias, Tensor? skip, Tensor? offset, int groups, float eps, "
    "bool silu) -> Tensor",
    tags=TAGS,
)
_LIBRARY.define("quick_gelu(Tensor x) -> Tensor", tags=TAGS)
_LIBRARY.define(
    "layer_norm_conv(Tensor z, Tensor norm_weight, Tensor norm_bias, Tensor conv_weight, Tensor conv_bias, "
    "float eps) -> (Tensor, Tensor)",
    tags=TAGS,
)
_LIBRARY.define(
    "l2_norm_residual(Tensor z, Tensor mlp, Tensor? attn, Tensor convolved, Tensor gain, Tensor shift, "
    "float eps) -> Tensor",
    tags=TAGS,
)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    skip: Tensor | None = None,
    offset: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = True,
) -> Tensor:
    """GroupNorm and SiLU of [M, C, H, W] channels_last; see `fsfast.kernels.cuda.group_norm_silu`."""
    return torch.ops.fsfast.group_norm_silu(x, weight, bias, skip, offset, groups, eps, silu)


def quick_gelu(x: Tensor) -> Tensor:
    """x·sigmoid(1.702·x) of [N, D]; see `fsfast.kernels.cuda.quick_gelu`."""
    return torch.ops.fsfast.quick_gelu(x)


def layer_norm_conv(
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    *,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """LayerNorm of [M, L, D], and its depthwise convolution; see `fsfast.kernels.cuda.layer_norm_conv`."""
    return torch.ops.fsfast.layer_norm_conv(z, norm_weight, norm_bias, conv_weight, conv_bias, eps)


def l2_norm_residual(
    z: Tensor,
    mlp: Tensor,
    attn: Tensor | None,
    convolved: Tensor,
    gain: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Add a normalised update to [M, L, D]; see `fsfast.kernels.cuda.l2_norm_residual`."""
    return torch.ops.fsfast.l2_norm_residual(z, mlp, attn, convolved, gain, shift, eps)


def _group_norm_silu_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    images = [x] if skip is None else [x, skip]
    if not all(image.is_contiguous(memory_format=torch.channels_last) for image in images):
        raise ValueError("x: wanted channels_last; pass .contiguous(memory_format=torch.channels_last)")
    # float64 stays: networks are compared in it.
    precise = x.double() if x.dtype == torch.float64 else x.float()
    whole = precise if skip is None else torch.cat([precise, skip.to(precise.dtype)], dim=1)
    if offset is not None:
        whole = whole + offset.to(precise.dtype)[:, None, None]
    grouped = whole.unflatten(1, (groups, -1))
    # Not F.group_norm: on the CPU it subtracts large sums of a channels_last tensor.
    variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
    y = ((grouped - mean) / torch.sqrt(variance + eps)).flatten(1, 2)
    y = y * weight.to(y.dtype)[:, None, None] + bias.to(y.dtype)[:, None, None]
    y = F.silu(y) if silu else y
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _quick_gelu_cpu(x: Tensor) -> Tensor:
    precise = x.double() if x.dtype == torch.float64 else x.float()
    return (precise * torch.sigmoid(1.702 * precise)).to(x.dtype)


def _layer_norm_conv_cpu(
    z: Tensor, norm_weight: Tensor, norm_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    f = F.layer_norm(z.float(), z.shape[2:], norm_weight.float(), norm_bias.float(), eps).to(z.dtype)
    # What is convolved is what is returned: rounded.
    convolved = F.conv1d(f.float().mT, conv_weight.float(), conv_bias.float(), padding=1, groups=z.shape[2])
    return f, convolved.mT.contiguous().to(z.dtype)


def _l2_norm_residual_cpu(
    z: Tensor,
    mlp: Tensor,
    attn: Tensor | None,
    convolved: Tensor,
    gain: Tensor,
    shift: Tensor,
    eps: float,
) -> Tensor:
    h = mlp.float() if attn is None else mlp.float() + attn.float()
    update = F.normalize(h + convolved.float(), dim=-1, eps=eps) * gain.float() + shift.float()
    return (z.float() + update).to(z.dtype)


def _group_norm_silu_fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _quick_gelu_fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _layer_norm_conv_fake(z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), torch.empty_like(z)


def _l2_norm_residual_fake(z: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z)


def _group_norm_silu_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    from fsfast.kernels import cuda

    return cuda.group_norm_silu(x, weight, bias, groups, skip=skip, offset=offset, eps=eps, silu=silu)


def _quick_gelu_cuda(x: Tensor) -> Tensor:
    from fsfast.kernels import cuda

    return cuda.quick_gelu(x)


def _layer_norm_conv_cuda(
    z: Tensor, norm_weight: Tensor, norm_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from fsfast.kernels import cuda

    return cuda.layer_norm_conv(z, norm_weight, norm_bias, conv_weight, conv_bias, eps=eps)


def _l2_norm_residual_cuda(
    z: Tensor,
    mlp: Tensor,
    attn: Tensor | None,
    convolved: Tensor,
    gain: Tensor,
    shift: Tensor,
    eps: float,
) -> Tensor:
    from fsfast.kernels import cuda

    return cuda.l2_norm_residual(z, mlp, attn, convolved, gain, shift, eps=eps)


for _name, _cpu, _cuda, _fake in (
    ("group_norm_silu", _group_norm_silu_cpu, _group_norm_silu_cuda, _group_norm_silu_fake),
    ("quick_gelu", _quick_gelu_cpu, _quick_gelu_cuda, _quick_gelu_fake),
    ("layer_norm_conv", _layer_norm_conv_cpu, _layer_norm_conv_cuda, _layer_norm_conv_fake),
    ("l2_norm_residual", _l2_norm_residual_cpu, _l2_norm_residual_cuda, _l2_norm_residual_fake),
):
    _LIBRARY.impl(_name, _cpu, "CPU")
    _LIBRARY.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"fsfast::{_name}", _fake, lib=_LIBRARY)
