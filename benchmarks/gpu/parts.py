"""Parts of the networks in kernels of our own against torch, eager and compiled: whether they deserve their place.

`python -m benchmarks gpu-parts`, on a GPU. A kernel stays out of the encoder until its rows, and those of whole
networks, are faster than torch.compile's. The ceiling is a copy of as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.kernels import Compile, baselines, compiled, copy_time
from benchmarks.measuring.harness import Row, measure_gpu, row
from fsfast.backends.torch.networks import for_device
from fsfast.models.mapper import SmoothnessMapper
from fsfast.models.unet import UNET_LIGHT, UNet, UNetConfig

SIGMA = 0.25
GROUPS = 32
# dtype → largest deviation from torch in float32, of the largest output: no speed is reported of a wrong kernel.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
# Of whole networks in bfloat16, which differ from one another by the rounding of a hundred layers: of the root of the
# mean square.
_NETWORK_TOLERANCE = 5e-2

# (M, C, channels of the skip connection, H, W, dtype): adm256's levels with and without a skip, unet-light's first, and
# few large groups, with which one program per group would leave most multiprocessors idle.
NORM_SHAPES = (
    (4, 256, 0, 256, 256, torch.bfloat16),
    (4, 256, 256, 256, 256, torch.bfloat16),
    (4, 256, 256, 128, 128, torch.bfloat16),
    (4, 512, 512, 32, 32, torch.bfloat16),
    (4, 1024, 1024, 8, 8, torch.bfloat16),
    (16, 256, 0, 256, 256, torch.bfloat16),
    (16, 256, 256, 256, 256, torch.bfloat16),
    (1, 128, 0, 5120, 256, torch.bfloat16),
    (16, 96, 0, 256, 256, torch.bfloat16),
    (4, 256, 0, 256, 256, torch.float32),
)
# (M, L, D, dtype): ViT-L/14 at 336, ViT-B/16 at 224, pooled features.
TOKEN_SHAPES = (
    (16, 577, 1024, torch.bfloat16),
    (4, 577, 1024, torch.bfloat16),
    (16, 577, 1024, torch.float32),
    (16, 197, 768, torch.bfloat16),
    (64, 1, 768, torch.bfloat16),
)


def norms(
    device: str = "cuda",
    shapes: Sequence[tuple[int, int, int, int, int, torch.dtype]] = NORM_SHAPES,
    compile: Compile = compiled,
) -> Iterator[Row]:
    """group_norm_silu as the U-Net calls it. What comes is read twice (once for its moments), the result written."""
    from fsfast.kernels import cuda

    def with_torch(x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, offset: Tensor) -> Tensor:
        whole = x if skip is None else torch.cat([x, skip], dim=1)
        return F.silu(F.group_norm(whole + offset[:, None, None], GROUPS, weight, bias))

    for m, own, others, height, width, dtype in shapes:
        x, skip = (
            torch.randn((m, c, height, width), device=device).to(dtype, memory_format=torch.channels_last)
            if c
            else None
            for c in (own, others)
        )
        affine = torch.randn((3, own + others), device=device).to(dtype)
        weight, bias, offset = affine
        out = torch.empty_like(torch.cat([x, skip], dim=1) if others else x)
        more = {"skip": skip, "offset": offset, "out": out}
        call = partial(cuda.group_norm_silu, x, weight, bias, GROUPS, **more)
        exact = (None if t is None else t.float() for t in (x, skip, *affine))
        _require_close("group_norm_silu", call(), with_torch(*exact))
        channels = f"{own}+{others}" if others else f"{own}"
        shape = f"{m}×{channels}×{height}×{width} {_name(dtype)}"
        baseline = partial(with_torch, x, skip, *affine)
        yield from _rows("group_norm_silu", shape, 3 * out.nbytes, device, baseline, compile, call)


def norm_convolutions(
    device: str = "cuda",
    shapes: Sequence[tuple[int, int, int, torch.dtype]] = TOKEN_SHAPES,
    compile: Compile = compiled,
) -> Iterator[Row]:
    """layer_norm_conv. z is read once, two results are written once."""
    from fsfast.kernels import cuda

    def with_torch(z: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        f = F.layer_norm(z, z.shape[2:], weight, bias)
        return f, F.conv1d(f.mT, taps, bias, padding=1, groups=z.shape[2]).mT

    for m, tokens, dim, dtype in shapes:
        z = torch.randn((m, tokens, dim), device=device).to(dtype)
        weight, bias = torch.randn((2, dim), device=device).to(dtype)
        taps = torch.randn((dim, 1, 3), device=device).to(dtype)
        given = z, weight, bias, taps
        call = partial(cuda.layer_norm_conv, *given, bias)
        for got, wanted in zip(call(), with_torch(*(t.float() for t in given)), strict=True):
            _require_close("layer_norm_conv", got, wanted)
        shape = f"{m}×{tokens}×{dim} {_name(dtype)}"
        baseline = partial(with_torch, *given)
        yield from _rows("layer_norm_conv", shape, 3 * z.nbytes, device, baseline, compile, call)


def residuals(
    device: str = "cuda",
    shapes: Sequence[tuple[int, int, int, torch.dtype]] = TOKEN_SHAPES,
    compile: Compile = compiled,
) -> Iterator[Row]:
    """l2_norm_residual with attention. Four tensors are read once, the result is written once."""
    from fsfast.kernels import cuda

    def with_torch(
        z: Tensor, mlp: Tensor, attn: Tensor, convolved: Tensor, gain: Tensor, shift: Tensor
    ) -> Tensor:
        h = mlp + attn + convolved
        return z + (h / torch.linalg.vector_norm(h, dim=-1, keepdim=True).clamp_min(1e-6) * gain + shift)

    for m, tokens, dim, dtype in shapes:
        terms = torch.randn((4, m, tokens, dim), device=device).to(dtype)
        given = (*terms, *torch.randn((2, dim), device=device).to(dtype))
        call = partial(cuda.l2_norm_residual, *given)
        _require_close("l2_norm_residual", call(), with_torch(*(t.float() for t in given)))
        shape = f"{m}×{tokens}×{dim} {_name(dtype)}"
        baseline = partial(with_torch, *given)
        yield from _rows("l2_norm_residual", shape, 5 * terms[0].nbytes, device, baseline, compile, call)


def networks(
    device: str = "cuda",
    sizes: Sequence[int] = (4, 16),
    config: UNetConfig = UNET_LIGHT,
    side: int = 256,
    tokens: int = 577,
    dim: int = 1024,
    compile: Callable[[Any], Any] = compiled,
) -> Iterator[Row]:
    """Whole networks in bfloat16 with random weights: eager, compiled, and both with our kernels inside.

    The back end `torch` runs the fused ones eagerly, `torch-compile` compiles the plain ones.
    """
    folded = {
        "unet-light": (_randomised(UNet(config)).at_sigma(SIGMA), (3, side, side)),
        "mapper": (_randomised(SmoothnessMapper(dim)).at_sigma(SIGMA), (tokens, dim)),
    }
    for name, (network, shape) in folded.items():
        plain = network.to(device, torch.bfloat16, memory_format=torch.channels_last)
        fused = for_device(plain)
        variants = {
            "eager": plain,
            "fused": fused,
            "torch.compile": compile(plain),
            "fused, torch.compile": compile(fused),
        }
        for m in sizes:
            x = torch.randn((m, *shape), device=device).to(torch.bfloat16)
            x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            with torch.no_grad():
                _require_alike(name, fused(x), plain(x))
                times = {variant: measure_gpu(partial(call, x)) for variant, call in variants.items()}
            for variant, timing in times.items():
                share = times["torch.compile"].p50 / timing.p50
                yield row(
                    f"network: {name}", f"{variant}, M={m}", 0, timing, m, "samples/s",
                    share=share, of="torch.compile",
                )  # fmt: skip


def _rows(
    case: str, shape: str, size: int, device: str, eager: partial[Any], compile: Compile, call: Callable
) -> Iterator[Row]:
    """Time torch, torch.compile and the kernel on the same tensors, and a copy of as many bytes."""
    copied = copy_time(size, device)
    forms = [(f"{name}, ", partial(form, *eager.args)) for name, form in baselines(eager.func, compile)]
    for name, form in (*forms, ("", call)):
        with torch.no_grad():
            timing = measure_gpu(form)
        share = copied.p50 / timing.p50
        yield row(case, f"{name}{shape}", 0, timing, size / 1e9, "GB/s", share=share, of="copy bandwidth")


def _randomised(module: nn.Module) -> Any:
    """Give every weight a usual size: new networks hold zeros."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        std = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.2
        nn.init.normal_(weight, float(weight.ndim == 1 and name.endswith("weight")), std, generator)
    return module


def _require_alike(case: str, got: Tensor, wanted: Tensor) -> None:
    """Raise AssertionError unless two networks differ by rounding alone."""
    found = ((got.float() - wanted.float()).square().mean() / wanted.float().square().mean()).sqrt().item()
    if not found <= _NETWORK_TOLERANCE:
        raise AssertionError(f"{case}: the fused network deviates by {found:.2g}; run pytest -m gpu")


def _require_close(case: str, got: Tensor, wanted: Tensor) -> None:
    """Raise AssertionError unless the results are those of torch, up to rounding."""
    allowed = _TOLERANCES[got.dtype]
    found = ((got.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()
    if not found <= allowed:
        raise AssertionError(f"{case}: deviates from torch by {found:.2g} of its range; run pytest -m gpu")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
