"""What n0 serving samples at another image give: a mean of finitely many samples is not the expectation."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc, ndtr, ndtri

from fsfast.bounds.cosine import Caps, check_caps, check_distance

# `betainc` is good to 1e-10 relative, `ndtr` to 1e-15: tails are raised by, and the result lowered by far more.
_MARGIN = 1e-7
_ROUNDING = 1e-12


def served_cosine_lower_bound(
    d: float, n0: int, *, caps: Caps, confidence: float, total_variation: float = 0.0
) -> float | None:
    """Return a lower bound of the cosine of the anchor and the mean of n0 unit features at x', ‖x' − x‖ ≤ dσ.

    It holds on the certification event, for each x' that was fixed before its serving noise, with probability ≥
    `confidence` over that noise. At x' a sample lies in cap k with probability ≥ p' = Φ(Φ⁻¹(p_k) − d) − η, so with
    probability ≥ BinomCDF(j; n0, 1 − p') at most j of the n0 leave it; then the mean lies in the cone of angle
    arccos τ_k + arcsin(j/(n0 − j)), if that quotient is below τ_k. The best k with the smallest sufficient j counts;
    both are fixed before the serving noise.

    The mean is that of the n0 unit features (‖f‖ ≤ 1, all tokens concatenated), before any further
    normalisation of its tokens.

    Args:
        d: ε/σ ≥ 0, finite.
        n0: serving samples, ≥ 1.
        caps: pairs (τ, p) as in `cosine_lower_bound`.
        confidence: probability over the serving noise at x', in (0, 1).
        total_variation: η, distance of one noise vector from the ideal one.

    Returns:
        The bound, or None where nothing is certified.

    Raises:
        ValueError: d or η negative or not finite, n0 < 1, confidence outside (0, 1), caps out of range.

    Source: docs/certificates.md §6.
    """
    check_distance(d)
    check_caps(caps)
    if n0 < 1:
        raise ValueError(f"wanted n0 ≥ 1 serving samples, got {n0}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"wanted a confidence in (0, 1), got {confidence}; 0.999 is usual")
    if not 0.0 <= total_variation < 1.0:
        raise ValueError(f"wanted a total variation in [0, 1), got {total_variation}")
    best = 0.0
    for tau, p in caps:
        leaving = float(ndtr(d - ndtri(p))) + total_variation + _ROUNDING
        j = _most_leaving(n0, min(leaving, 1.0), 1.0 - confidence)
        if j < tau * (n0 - j):
            kappa = j / (n0 - j)
            side = math.sqrt((1.0 - tau) * (1.0 + tau))
            best = max(best, tau * math.sqrt((1.0 - kappa) * (1.0 + kappa)) - side * kappa)
    return best - _ROUNDING if best > _ROUNDING else None


def _most_leaving(n0: int, leaving: float, error: float) -> int:
    """Return the smallest j with P(Bin(n0, leaving) > j) ≤ error; n0 if there is none below."""
    j = np.arange(n0)
    enough = betainc(j + 1.0, n0 - j, leaving) <= error * (1.0 - _MARGIN)
    return int(np.argmax(enough)) if enough.any() else n0
