"""Sums inside a program whose order no layout of threads, and so no tuning, can change."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pairwise_sum(x, ROWS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr):
    """[ROWS, WIDTH] → [ROWS] with WIDTH = 2^LEVELS: neighbours are added, then their sums; never more than two."""
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, (ROWS, WIDTH >> (level + 1), 2)), axis=2)
    return tl.reshape(x, (ROWS,))


def levels(width: int) -> int:
    """Return log2 of a power of two."""
    return width.bit_length() - 1
