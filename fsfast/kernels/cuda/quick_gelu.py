"""quick_gelu in Triton: x·sigmoid(1.702·x), elementwise, where torch's operators take three passes.

In float32, rounded once. The exponential and the quotient are the GPU's approximations, 2 units in the last place each.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.settings import Setting, setting


@triton.jit
def quick_gelu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    """One program: BLOCK numbers."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < count, other=0.0).to(tl.float32)
    y = x / (1.0 + tl.exp(-1.702 * x))
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=i < count)


def quick_gelu(x: Tensor, *, out: Tensor | None = None, tuning: Setting | None = None) -> Tensor:
    """Apply OpenAI's approximation of GELU, on a GPU.

    Args:
        x: [N, D] float32, float16 or bfloat16, contiguous.
        out: tensor to write to, or None for a new one; it may be x.
        tuning: numbers of a program; None: from the table of this GPU. Changes no bit.

    Returns:
        [N, D] of x's dtype.

    Raises:
        ValueError, TypeError: x has the wrong shape, type or memory order.
    """
    checks.check_tensor("x", x, tuple(checks.FLOATS.values()), (None, None), x.device)
    if out is None:
        out = x.new_empty(x.shape)
    else:
        checks.check_tensor("out", out, x.dtype, tuple(x.shape), x.device)
    block = tuning or setting("quick_gelu", x.device)
    Launch(
        kernel=quick_gelu_kernel,
        programs=blocks(x.numel(), block.block),
        arguments={"x_ptr": x, "out_ptr": out, "count": x.numel(), "BLOCK": block.block},
        num_warps=block.num_warps,
    ).run()
    return out
