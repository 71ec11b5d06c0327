"""l2_norm_residual in Triton: z + h/max(‖h‖, ε) ⊙ gain + shift, where h is a sum of two or three tensors.

One kernel. Everything is float32 and rounded once; ‖h‖² is a tree of pairs over the D numbers: the order depends on D
alone.

Bytes: z and the terms of h read once, the result written once. Operations of one number, in float32: 1 or 2 additions
for h, 2 for its norm, 4 for the result; per token a square root and a division.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.layer_norm_conv import MAX_DIM
from fsfast.kernels.cuda.reduce import levels, pairwise_sum
from fsfast.kernels.cuda.settings import Setting, setting

_NUMBERS_PER_THREAD = 16


@triton.jit
def l2_norm_residual_kernel(
    out_ptr,
    z_ptr,
    mlp_ptr,
    attn_ptr,
    convolved_ptr,
    gain_ptr,
    shift_ptr,
    items,
    eps,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK of the M·L tokens."""
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, WIDTH)
    place = item.to(tl.int64)[:, None] * DIM + d[None, :]
    mask = (item < items)[:, None] & (d < DIM)[None, :]
    h = tl.load(mlp_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if attn_ptr is not None:
        h += tl.load(attn_ptr + place, mask=mask, other=0.0).to(tl.float32)
    h += tl.load(convolved_ptr + place, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + place, mask=mask, other=0.0).to(tl.float32)
    gain = tl.load(gain_ptr + d, mask=d < DIM, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + d, mask=d < DIM, other=0.0).to(tl.float32)
    norm = tl.sqrt_rn(pairwise_sum(h * h, BLOCK, WIDTH, LEVELS))
    # A NaN stays one: no maximum does that everywhere.
    inverse = tl.div_rn(1.0, tl.where(norm < eps, eps, norm))
    out = z + (h * inverse[:, None] * gain[None, :] + shift[None, :])
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


def l2_norm_residual(
    z: Tensor,
    mlp: Tensor,
    attn: Tensor | None,
    convolved: Tensor,
    gain: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-6,
    tuning: Setting | None = None,
) -> Tensor:
    """Add to each token its update, scaled to unit length, weighted and shifted, on a GPU.

    In torch: h = mlp + attn + convolved and z + F.normalize(h, dim=-1, eps=eps) * gain + shift.

    Args:
        z: [M, L, D] float32, float16 or bfloat16, contiguous; D at most 4096.
        mlp, convolved: as z.
        attn: as z, or None for none.
        gain, shift: [D] of the same dtype.
        eps: smallest length that is divided by.
        tuning: tokens of a program; None: from the table of this GPU. Changes no bit.

    Returns:
        [M, L, D] of z's dtype; in float32 within 1e-7 of its largest magnitude (against float64, D up to 1024, in the
        interpreter).

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type or device.
    """
    _check(z, mlp, attn, convolved, gain, shift)
    m, tokens, dim = z.shape
    out = torch.empty_like(z)
    tuning = tuning or setting("l2_norm_residual", z.device)
    width = triton.next_power_of_2(dim)
    Launch(
        kernel=l2_norm_residual_kernel,
        programs=blocks(m * tokens, tuning.block),
        arguments={
            "out_ptr": out,
            "z_ptr": z,
            "mlp_ptr": mlp,
            "attn_ptr": attn,
            "convolved_ptr": convolved,
            "gain_ptr": gain,
            "shift_ptr": shift,
            "items": m * tokens,
            "eps": eps,
            "DIM": dim,
            "WIDTH": width,
            "LEVELS": levels(width),
            "BLOCK": tuning.block,
        },
        num_warps=min(32, max(tuning.num_warps, tuning.block * width // (32 * _NUMBERS_PER_THREAD))),
    ).run()
    return out


def _check(
    z: Tensor, mlp: Tensor, attn: Tensor | None, convolved: Tensor, gain: Tensor, shift: Tensor
) -> None:
    checks.check_tensor("z", z, tuple(checks.FLOATS.values()), (None, None, None), z.device)
    dim = z.shape[2]
    if not 0 < dim <= MAX_DIM:
        raise ValueError(f"z: wanted tokens of 1 to {MAX_DIM} numbers, got {list(z.shape)}")
    for name, tensor in (("mlp", mlp), ("attn", attn), ("convolved", convolved)):
        if tensor is not None:
            checks.check_tensor(name, tensor, z.dtype, tuple(z.shape), z.device)
    for name, tensor in (("gain", gain), ("shift", shift)):
        checks.check_tensor(name, tensor, z.dtype, (dim,), z.device)
