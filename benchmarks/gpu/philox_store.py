"""The ceiling of noisy_batch: a kernel that draws as many Philox words and stores them, and does nothing else."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.noisy_batch import uniform_words

_BLOCK = 4096


@triton.jit
def philox_store_kernel(out_ptr, seed_ptr, count, BLOCK: tl.constexpr):
    """One program: BLOCK words; 16-bit outputs get the upper halves."""
    block = tl.program_id(0)
    seed = tl.load(seed_ptr)
    number = seed.to(tl.int32)
    group = (block * (BLOCK // 4) + tl.arange(0, BLOCK // 4))[None, :]
    word = uniform_words(seed, number, number, 0, group, False).to(tl.int32, bitcast=True)
    element = group[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(
        out_ptr + element,
        (word >> 16 if out_ptr.dtype.element_ty == tl.int16 else word),
        mask=element < count,
    )


def philox_store(out: Tensor, seed: Tensor) -> None:
    """Overwrite a contiguous 16-bit or 32-bit tensor of fewer than 2^31 elements; `seed` is [1] int64."""
    words = out.view(torch.int16 if out.element_size() == 2 else torch.int32)
    arguments = {"out_ptr": words, "seed_ptr": seed, "count": out.numel(), "BLOCK": _BLOCK}
    Launch(philox_store_kernel, blocks(out.numel(), _BLOCK), arguments, num_warps=4).run()
