"""Lower confidence bounds for a proportion: the share of samples that lie in a cap.

S of n independent samples are successes, each with probability p. Pure mathematics, as `fsfast.bounds.means`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, betaincinv

from fsfast.bounds.means import checked_log_inverse

# `betainc` is good to 1e-10 relative in SciPy ≥ 1.11 (measured against 50 digits: tests/bounds/test_proportions.py).
# A tail that is smaller than α by a thousand times that is smaller than α.
_MARGIN = 1e-7


def proportion_lower_bound(
    successes: int | np.ndarray, n: int | np.ndarray, alpha: float
) -> float | np.ndarray:
    """Return a number that is at most the probability of success with probability ≥ 1 − alpha.

    Clopper and Pearson's bound: the p at which S or more successes of n have probability α; 0 for S = 0. It holds
    for an n that was fixed beforehand; `SequentialProportion` may stop at any time. The quantile of the Beta
    distribution is only a proposal: a p is returned after P(Bin(n, p) ≥ S) ≤ α has been checked with a relative
    margin of 1e-7, and lowered until it holds. What that costs is below 1e-6 of the bound.

    Args:
        successes: S, integers in 0…n; any shape.
        n: number of samples, ≥ 1; a shape that broadcasts with that of `successes`.
        alpha: the probability of error, in (0, 1); for each proportion separately.

    Returns:
        A float for two numbers, else a float64 array of the common shape; in [0, 1).

    Raises:
        ValueError: counts that are not integers, n < 1, successes outside 0…n, alpha outside (0, 1).

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    checked_log_inverse(alpha)
    s, total = checked_counts(successes, n)
    shape = np.broadcast_shapes(s.shape, total.shape)
    s, total = (np.broadcast_to(a, shape).astype(np.float64).ravel() for a in (s, total))
    p = np.zeros(s.shape)
    waiting = np.flatnonzero(s > 0.0)
    # Where every sample is a success the tail is pⁿ.
    guess = np.where(
        s == total, alpha ** (1.0 / total), betaincinv(np.maximum(s, 1.0), total - s + 1.0, alpha)
    )
    step = 1e-10
    for _ in range(40):
        proposed = guess[waiting] * (1.0 - step)
        tail = betainc(s[waiting], total[waiting] - s[waiting] + 1.0, proposed)
        good = tail <= alpha * (1.0 - _MARGIN)
        p[waiting[good]] = proposed[good]
        waiting, step = waiting[~good], 2.0 * step
        if not len(waiting) or step > 0.5:
            break
    return float(p[0]) if not shape else p.reshape(shape)


def checked_counts(successes: int | np.ndarray, n: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return successes and n as arrays of integers; raises ValueError where they cannot be counts."""
    s, total = np.asarray(successes), np.asarray(n)
    if s.dtype.kind not in "iu" or total.dtype.kind not in "iu":
        raise ValueError(f"wanted counts as integers, got {s.dtype} of {total.dtype}; count hits, not shares")
    if (total < 1).any():
        raise ValueError(f"wanted n ≥ 1 samples, got {int(total.min())}; sample at least once")
    if (s < 0).any() or (s > total).any():
        raise ValueError(f"wanted successes between 0 and n, got {int(s.min())} to {int(s.max())}")
    return s, total
