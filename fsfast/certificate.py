"""From the mean score to lower bounds of a cosine, and to certified radii.

Pure mathematics: no images, no samples, no back ends. A score is S = (1 + c)/2, c the mean inner product with
the anchor; d = ε/σ is the ℓ2 radius in units of the noise. What is not positive certifies nothing: None.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from scipy.special import ndtr, ndtri

CosineMethod = Literal["fcsb", "paper"]

# `ndtri` and `ndtr` err by a few units in the last place and |∂b/∂(Φ⁻¹(S) − d)| ≤ 0.8, so a computed bound is
# off by less than 1e-14 (measured against 40 digits). Subtracting a hundred times that rounds down.
_ROUNDING = 1e-12

# The largest score below 1. A lower confidence bound from finitely many samples is below 1 by far; 1 is read
# as this number, which can only lower a bound, so that no radius is infinite.
_LARGEST_SCORE = 1.0 - 2.0**-53


def cosine_lower_bound(d: float, *, mean: float, method: CosineMethod = "fcsb") -> float | None:
    """Return a lower bound of Cos(f̂(x'), u) for every x' within ℓ2 distance d·σ of x.

    `fcsb`: b = 2Φ(Φ⁻¹(S_L) − d) − 1, rounded down by 1e-12, where that is positive. Sound: the inner product
    with u is ≥ b because a score is a function into [0, 1], and ‖f̂(x')‖ ≤ 1 makes the cosine at least as
    large once b > 0. `paper`: the same formula with the sample mean plugged in, as in the paper's Table 2.
    It has no confidence and is **not a certificate**; it may return any number in [−1, 1], never None.

    Args:
        d: ε/σ ≥ 0, finite.
        mean: fcsb: S_L, a lower confidence bound of the mean *score*, in [0, 1], already less the
            distance of the integer noise from its ideal. paper: the sample mean of the scores.
        method: "fcsb" or "paper".

    Returns:
        The bound, or None where nothing is certified.

    Raises:
        ValueError: d negative, infinite or NaN; mean outside [0, 1] or NaN; unknown method.

    Source: Theorem 1 of arXiv 2601.16200 with a fixed anchor; docs/certificates.md §4.
    """
    _check(mean, method)
    if not 0.0 <= d < math.inf:
        raise ValueError(f"wanted d = ε/σ to be finite and not negative, got {d}; ε is a distance, σ > 0")
    b = float(2.0 * ndtr(ndtri(min(mean, _LARGEST_SCORE)) - d) - 1.0)
    if method == "paper":
        return b
    return b - _ROUNDING if b > _ROUNDING else None


def radius(target: float, *, sigma: float, mean: float, method: CosineMethod = "fcsb") -> float:
    """Return the largest ε at which `cosine_lower_bound(ε/σ)` still reaches `target`.

    ε = σ(Φ⁻¹(S_L) − Φ⁻¹((1 + target)/2)), rounded down until `cosine_lower_bound(ε/σ) ≥ target` holds as
    computed. With `paper` this is Corollary 1 for target 0.5, and not a certificate.

    Args:
        target: the cosine that is asked for, in (0, 1].
        sigma: noise level in [0, 1] pixel units, > 0.
        mean: as in `cosine_lower_bound`.
        method: as in `cosine_lower_bound`.

    Returns:
        The radius in [0, 1] pixel units, finite; 0.0 if there is none.

    Raises:
        ValueError: target outside (0, 1], sigma not positive and finite, mean outside [0, 1], unknown method.
    """
    _check(mean, method)
    if not 0.0 < target <= 1.0:
        raise ValueError(f"wanted a target cosine in (0, 1], got {target}; others cannot be certified")
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"wanted sigma positive and finite, got {sigma}; it is the engine's noise level")
    margin = 0.0 if method == "paper" else _ROUNDING
    d = float(ndtri(min(mean, _LARGEST_SCORE)) - ndtri(min(0.5 * (1.0 + target + margin), 1.0)))
    epsilon, step = d * sigma, 2.0**-52
    while epsilon > 0.0:
        bound = cosine_lower_bound(epsilon / sigma, mean=mean, method=method)
        if bound is not None and bound >= target:
            return epsilon
        # Rounding spoiled it: step down, twice as far each time.
        epsilon, step = d * sigma * (1.0 - step), 2.0 * step
    return 0.0


def _check(mean: float, method: str) -> None:
    if method not in get_args(CosineMethod):
        raise ValueError(f"wanted method to be one of {', '.join(get_args(CosineMethod))}; got {method!r}")
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"wanted a mean score in [0, 1], got {mean}; a mean cosine c is the score (1 + c)/2")
