"""Bootstrap intervals of means over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS = 2000


def bootstrap(
    groups: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of all values, and the percentile interval of it.

    Args:
        groups: the values of each image, one for each seed; images are drawn, with all that belongs to them.
        level: of the interval.
        seed: of the draws.
    """
    sums = np.array([sum(group) for group in groups], np.float64)
    counts = np.array([len(group) for group in groups], np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(groups), (_DRAWS, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sums.sum() / counts.sum()), float(low), float(high)
