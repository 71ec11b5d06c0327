"""layer_norm_conv in Triton: LayerNorm and a depthwise convolution along the tokens, both results from one read.

One kernel. A program walks along its tokens and holds three neighbours: token l is normalised once and used for l − 1,
l and l + 1; the next token's load is under way meanwhile. Sums are float32 trees of pairs over the D numbers: the order
depends on D alone. Means are subtracted before squares are taken.

Bytes: z read once (two more tokens per program, which a neighbour reads, too: from the cache), both results written
once. Operations of one number, in float32: 2 additions and 3 more operations for the moments, 3 to normalise, 6 for the
convolution; per token two divisions, a square root and one more division.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.reduce import levels, pairwise_sum
from fsfast.kernels.cuda.settings import Setting, setting

# A program is one token wide: 16 warps of 8 numbers per thread. 32 warps would have too few registers.
MAX_DIM = 4096
# More numbers of a token in a thread would not fit into its registers, beside weights and neighbours.
_NUMBERS_PER_THREAD = 8


@triton.jit
def normalised(
    z, inside, weight, bias, used, eps, DIM: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr
):
    """LayerNorm of one token in float32, [1, WIDTH]; zeros where the token is outside of the row."""
    mean = tl.div_rn(pairwise_sum(z, 1, WIDTH, LEVELS), DIM)
    centred = tl.where(used, z - mean[:, None], 0.0)
    variance = tl.div_rn(pairwise_sum(centred * centred, 1, WIDTH, LEVELS), DIM)
    scale = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    return tl.where(inside, centred * scale[:, None] * weight + bias, 0.0)


@triton.jit
def load_token(row_ptr, token, tokens, d, DIM: tl.constexpr):
    """One token in float32, [1, WIDTH]; zeros outside of the row."""
    place = token * DIM + d
    mask = (d < DIM) & (place >= 0) & (place < tokens * DIM)
    return tl.load(row_ptr + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def layer_norm_conv_kernel(
    z_ptr,
    f_ptr,
    convolved_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    conv_weight_ptr,
    conv_bias_ptr,
    tokens,
    token_blocks,
    eps,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK tokens of one row."""
    program = tl.program_id(0)
    begin, row = program % token_blocks * BLOCK, (program // token_blocks).to(tl.int64)
    d = tl.arange(0, WIDTH)[None, :]
    used = d < DIM
    weight = tl.load(norm_weight_ptr + d, mask=used, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias_ptr + d, mask=used, other=0.0).to(tl.float32)
    left = tl.load(conv_weight_ptr + d * 3, mask=used, other=0.0).to(tl.float32)
    middle = tl.load(conv_weight_ptr + d * 3 + 1, mask=used, other=0.0).to(tl.float32)
    right = tl.load(conv_weight_ptr + d * 3 + 2, mask=used, other=0.0).to(tl.float32)
    constant = tl.load(conv_bias_ptr + d, mask=used, other=0.0).to(tl.float32)
    dtype = f_ptr.dtype.element_ty
    row_place = row * tokens * DIM
    z = load_token(z_ptr + row_place, begin - 1, tokens, d, DIM)
    before = normalised(z, begin > 0, weight, bias, used, eps, DIM, WIDTH, LEVELS).to(dtype).to(tl.float32)
    z = load_token(z_ptr + row_place, begin, tokens, d, DIM)
    # What is convolved is what is written: rounded.
    here = normalised(z, True, weight, bias, used, eps, DIM, WIDTH, LEVELS).to(dtype).to(tl.float32)
    coming = load_token(z_ptr + row_place, begin + 1, tokens, d, DIM)
    for token in range(begin, tl.minimum(begin + BLOCK, tokens)):
        z = coming
        coming = load_token(z_ptr + row_place, token + 2, tokens, d, DIM)
        after = normalised(z, token + 1 < tokens, weight, bias, used, eps, DIM, WIDTH, LEVELS)
        after = after.to(dtype).to(tl.float32)
        place = row_place + token * DIM + d
        tl.store(f_ptr + place, here.to(dtype), mask=used)
        convolved = left * before + middle * here + right * after + constant
        tl.store(convolved_ptr + place, convolved.to(dtype), mask=used)
        before = here
        here = after


def layer_norm_conv(
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    *,
    eps: float = 1e-5,
    tuning: Setting | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalise tokens and convolve them with their two neighbours, channel by channel, on a GPU.

    In torch: f = F.layer_norm(z, (D,), norm_weight, norm_bias, eps) and
    F.conv1d(f.mT, conv_weight, conv_bias, padding=1, groups=D).mT.

    Args:
        z: [M, L, D] float32, float16 or bfloat16, contiguous; D at most 4096, at most 2^30 values per row.
        norm_weight, norm_bias: [D] of the same dtype.
        conv_weight: [D, 1, 3]; conv_bias: [D].
        eps: is added to variances.
        tuning: tokens of a program; None: from the table of this GPU. Changes no bit.

    Returns:
        f and the convolved f, [M, L, D] of z's dtype. Beyond the first and last token f counts as zero. In float32 f is
        within 2e-7 of the largest |f| for means up to a standard deviation, 4e-6 at 100, and the convolution within
        1e-7 (against float64, D up to 1024, in the interpreter).

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type or device.
    """
    m, tokens, dim = _check(z, norm_weight, norm_bias, conv_weight, conv_bias)
    f, convolved = torch.empty_like(z), torch.empty_like(z)
    tuning = tuning or setting("layer_norm_conv", z.device)
    width = triton.next_power_of_2(dim)
    token_blocks = blocks(tokens, tuning.block)
    Launch(
        kernel=layer_norm_conv_kernel,
        programs=m * token_blocks,
        arguments={
            "z_ptr": z,
            "f_ptr": f,
            "convolved_ptr": convolved,
            "norm_weight_ptr": norm_weight,
            "norm_bias_ptr": norm_bias,
            "conv_weight_ptr": conv_weight,
            "conv_bias_ptr": conv_bias,
            "tokens": tokens,
            "token_blocks": token_blocks,
            "eps": eps,
            "DIM": dim,
            "WIDTH": width,
            "LEVELS": levels(width),
            "BLOCK": tuning.block,
        },
        num_warps=max(tuning.num_warps, width // (32 * _NUMBERS_PER_THREAD)),
    ).run()
    return f, convolved


def _check(
    z: Tensor, norm_weight: Tensor, norm_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> tuple[int, int, int]:
    """Raise TypeError or ValueError unless the arguments fit each other; return M, L and D."""
    checks.check_tensor("z", z, tuple(checks.FLOATS.values()), (None, None, None), z.device)
    m, tokens, dim = z.shape
    if not 0 < dim <= MAX_DIM or tokens * dim > checks.MAX_ELEMENTS:
        raise ValueError(
            f"z: wanted tokens of 1 to {MAX_DIM} numbers and at most 2^30 per row, got {list(z.shape)}"
        )
    given = {"norm_weight": norm_weight, "norm_bias": norm_bias, "conv_bias": conv_bias}
    for name, tensor in given.items():
        checks.check_tensor(name, tensor, z.dtype, (dim,), z.device)
    checks.check_tensor("conv_weight", conv_weight, z.dtype, (dim, 1, 3), z.device)
    return m, tokens, dim
