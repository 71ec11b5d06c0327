"""Which noise goes where: streams, numbers of samples, and the rows of the micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

from fsfast.kernels.types import Rows

MAX_SAMPLES = 1 << 32


class Stream(IntEnum):
    """Noise streams; certification never shares noise with what chose the anchor."""

    SERVING = 0
    CERTIFICATION = 1
    PILOT = 2
    CALIBRATION = 3


def check_samples(count: int, name: str) -> int:
    """Return a number of samples, n0 or n, in [1, 2³²).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count < MAX_SAMPLES:
        raise ValueError(f"wanted {name} ≥ 1 (an integer below 2³²), got {count!r}")
    return int(count)


def micro_batches(seeds: Sequence[int], samples: int, size: int, first_sample: int = 0) -> Iterator[Rows]:
    """Yield the rows of `samples` samples of every image, `size` at a time; the last ones are padding.

    Rows of different images share micro-batches; the samples of one image come in ascending order.

    Args:
        seeds: one 64-bit seed per image.
        samples: samples per image.
        size: M, rows per micro-batch.
        first_sample: number of the first sample of every image.
    """
    seed_of = np.array(seeds, np.uint64)
    total = len(seeds) * samples
    for first in range(0, total, size):
        row = np.arange(first, min(first + size, total))
        padding = np.full(size - len(row), -1, np.int64)
        image = np.concatenate([row // samples, padding])
        yield Rows(
            image=image.astype(np.int32),
            seed=np.where(image >= 0, seed_of[np.maximum(image, 0)], np.uint64(0)),
            sample=np.concatenate([first_sample + row % samples, np.zeros_like(padding)]).astype(np.uint32),
        )
