"""From bounds of scores to lower bounds of a cosine, and to certified radii.

Pure mathematics: no images, no samples, no back ends. A score is S = (1 + c)/2, c the mean inner product with
the anchor; d = ε/σ is the ℓ2 radius in units of the noise. What is not positive certifies nothing: None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri

from fsfast.bounds.dual import known
from fsfast.bounds.dual_bounds import FARTHEST, cosine_bounds, inner_product_bounds

CosineMethod = Literal["joint", "sharp", "cap", "fcsb", "paper"]
Caps = Sequence[tuple[float, float]]

# `ndtri` and `ndtr` err by a few units in the last place and |∂b/∂(Φ⁻¹(S) − d)| ≤ 0.8, so a computed bound is
# off by less than 1e-14 (measured against 40 digits). Subtracting a hundred times that rounds down.
_ROUNDING = 1e-12

# The largest score below 1. A lower confidence bound from finitely many samples is below 1 by far; 1 is read
# as this number, which can only lower a bound, so that no radius is infinite.
_LARGEST_SCORE = 1.0 - 2.0**-53

# A single radius is computed together with larger ones.
_LADDER = np.array([1.0, 1.1, 1.25])


def cosine_lower_bound(
    d: float, *, mean: float, caps: Caps = (), perp: float | None = None, method: CosineMethod = "joint"
) -> float | None:
    """Return a lower bound of Cos(f̂(x'), u) for every x' within ℓ2 distance d·σ of x.

    `fcsb`: b = 2Φ(Φ⁻¹(S_L) − d) − 1, Theorem 1 of the paper. `cap`: a share of the samples that lies in a cap
    around u keeps the mean in a cone. `sharp`: the best bound from S_L alone. `joint`: the mean, all caps and ρ
    together, and never below the other three. `paper`: `fcsb` with the sample mean plugged in, as in the paper's
    Table 2. It has no confidence and is **not a certificate**; it may return any number in [−1, 1], never None.

    All but `paper` are rounded down; whatever the numerical search finds is verified before it is returned. The search
    costs tightness: `sharp` is within 2e-5 of the best bound, `joint` within 4e-4 for constants like those of a
    certificate (against linear programmes), more for contrived ones. Bounds fall with d and rise with S_L, p and
    −ρ, as computed up to 3e-4 (400 random certificates).

    Args:
        d: ε/σ ≥ 0, finite.
        mean: S_L, a lower confidence bound of the mean *score*, in [0, 1], already less the distance of the
            integer noise from its ideal; 0.0 says nothing. paper: the sample mean of the scores.
        caps: pairs (τ, p): P(⟨f, u⟩ ≥ τ) ≥ p, τ in (0, 1], each p a lower confidence bound, likewise reduced.
        perp: ρ ≥ 0, an upper confidence bound of the norm of f̂(x)'s component orthogonal to u; None says
            nothing. Only `joint` uses it.
        method: "joint", "sharp", "cap", "fcsb" or "paper".

    Returns:
        The bound, or None where nothing is certified.

    Raises:
        ValueError: d negative, infinite or NaN; mean or a p outside [0, 1], a τ outside (0, 1], ρ negative, or
            any of them NaN; unknown method.

    Source: Theorem 1 of arXiv 2601.16200 with a fixed anchor; docs/certificates.md §4.
    """
    _check_constants(mean, caps, perp, method)
    check_distance(d)
    if method == "paper":
        return float(_fcsb(np.array([d]), mean)[0])
    # What holds farther out holds here, too, and a search that fails at one radius seldom fails at the next.
    bounds = _curve(d * _LADDER, mean, caps, perp, method)
    bound = float(np.fmax.reduce(bounds))
    return None if math.isnan(bound) else bound


def cosine_curve(
    d: np.ndarray, *, mean: float, caps: Caps = (), perp: float | None = None, method: CosineMethod = "joint"
) -> np.ndarray:
    """Return `cosine_lower_bound` at many radii at once, about as fast as at three single ones.

    What is certified at a radius is certified closer, too; the curve is made to fall accordingly.

    Args:
        d: [R] radii ε/σ ≥ 0, finite, in any order.
        mean, caps, perp, method: as in `cosine_lower_bound`.

    Returns:
        [R] float64; NaN where nothing is certified, so that no average contains it as a number.

    Raises:
        ValueError: as `cosine_lower_bound`; d is not one-dimensional.
    """
    _check_constants(mean, caps, perp, method)
    d = np.asarray(d, dtype=np.float64)
    if d.ndim != 1:
        raise ValueError(f"wanted radii d of shape [R], got shape {d.shape}; flatten them first")
    for value in d:
        check_distance(value)
    if method == "paper":
        return _fcsb(d, mean)
    order = np.argsort(-d, kind="stable")
    bound = np.empty_like(d)
    bound[order] = np.fmax.accumulate(_curve(d, mean, caps, perp, method)[order])
    return bound


def inner_product_lower_bound(d: float, *, mean: float, caps: Caps = ()) -> float | None:
    """Return a lower bound of ⟨f̂(x'), u⟩ for every x' within ℓ2 distance d·σ of x: the dual at θ = π/2.

    Args:
        d, mean, caps: as in `cosine_lower_bound`.

    Returns:
        The bound, or None where it is not positive. Without caps it is `fcsb`.

    Raises:
        ValueError: as `cosine_lower_bound`.
    """
    _check_constants(mean, caps, None, "joint")
    check_distance(d)
    at = np.array([d], dtype=np.float64)
    bounds = [_positive(_fcsb(at, mean) - _ROUNDING)]
    about = known(min(mean, _LARGEST_SCORE), caps)
    if len(about.tau):
        bounds.append(_positive(inner_product_bounds(at, about)))
    bound = float(np.fmax.reduce(bounds)[0])
    return None if math.isnan(bound) else bound


def radius(
    target: float,
    *,
    sigma: float,
    mean: float,
    caps: Caps = (),
    perp: float | None = None,
    method: CosineMethod = "joint",
) -> float:
    """Return the largest ε at which `cosine_lower_bound(ε/σ)` still reaches `target`.

    It is rounded down until `cosine_lower_bound(ε/σ) ≥ target` holds as computed. `fcsb` is in closed form,
    ε = σ(Φ⁻¹(S_L) − Φ⁻¹((1 + target)/2)); the others are searched for to 1e-6 σ. With `paper` this is Corollary 1
    for target 0.5, and not a certificate.

    Args:
        target: the cosine that is asked for, in (0, 1].
        sigma: noise level in [0, 1] pixel units, > 0.
        mean, caps, perp, method: as in `cosine_lower_bound`.

    Returns:
        The radius in [0, 1] pixel units, finite; 0.0 if there is none.

    Raises:
        ValueError: target outside (0, 1], sigma not positive and finite; else as `cosine_lower_bound`.
    """
    _check_constants(mean, caps, perp, method)
    if not 0.0 < target <= 1.0:
        raise ValueError(f"wanted a target cosine in (0, 1], got {target}; others cannot be certified")
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"wanted sigma positive and finite, got {sigma}; it is the engine's noise level")
    if method in ("fcsb", "paper"):
        margin = 0.0 if method == "paper" else _ROUNDING
        d = float(ndtri(min(mean, _LARGEST_SCORE)) - ndtri(min(0.5 * (1.0 + target + margin), 1.0)))
    else:
        d = _farthest(target, mean, caps, perp, method)
    epsilon, step = d * sigma, 2.0**-52
    while epsilon > 0.0:
        bound = cosine_lower_bound(epsilon / sigma, mean=mean, caps=caps, perp=perp, method=method)
        if bound is not None and bound >= target:
            return epsilon
        # Rounding spoiled it: step down, twice as far each time.
        epsilon, step = d * sigma * (1.0 - step), 2.0 * step
    return 0.0


def _farthest(target: float, mean: float, caps: Caps, perp: float | None, method: CosineMethod) -> float:
    """Return the largest d at which the curve reaches the target, to 1e-6; 0.0 if it never does."""
    low, high = 0.0, FARTHEST
    while high - low > 1e-6:
        d = np.linspace(low, high, 24)
        reached = np.flatnonzero(cosine_curve(d, mean=mean, caps=caps, perp=perp, method=method) >= target)
        if not len(reached):
            return low
        last = int(reached[-1])
        low, high = float(d[last]), float(d[min(last + 1, len(d) - 1)])
    return low


def _curve(d: np.ndarray, mean: float, caps: Caps, perp: float | None, method: CosineMethod) -> np.ndarray:
    """Return bounds [R] as they are computed, NaN where there is none."""
    mean = min(mean, _LARGEST_SCORE)
    bounds = []
    # Methods that share their constants: the best of them is sound, too.
    if method in ("fcsb", "joint", "sharp"):
        bounds.append(_positive(_fcsb(d, mean) - _ROUNDING))
    if method in ("cap", "joint"):
        bounds.extend(_cap(d, tau, p) for tau, p in caps)
    if method in ("sharp", "joint"):
        bounds.append(cosine_bounds(d, known(mean)))
    about = known(mean, caps, perp)
    if method == "joint" and (len(about.tau) or about.rho < 1.0):
        bounds.append(cosine_bounds(d, about))
    return np.fmax.reduce(bounds) if bounds else np.full_like(d, np.nan)


def _fcsb(d: np.ndarray, mean: float) -> np.ndarray:
    """2Φ(Φ⁻¹(S) − d) − 1."""
    return np.asarray(2.0 * ndtr(ndtri(min(mean, _LARGEST_SCORE)) - d) - 1.0)


def _cap(d: np.ndarray, tau: float, p: float) -> np.ndarray:
    """cos(arccos τ + arcsin κ), where κ = (1 − p')/p' < τ and p' = Φ(Φ⁻¹(p) − d).

    f̂(x') is p' times a vector of the cap ⟨·, u⟩ ≥ τ of the ball, plus one no longer than 1 − p'. It leaves
    the cone of angle θ at the latest where sin(θ − arccos τ) = κ.
    """
    quantile = ndtri(min(p, _LARGEST_SCORE)) - d
    with np.errstate(divide="ignore", over="ignore"):
        kappa = ndtr(-quantile) / ndtr(quantile)
    inside = kappa < tau
    kappa = np.where(inside, kappa, 0.0)
    bound = tau * np.sqrt((1.0 - kappa) * (1.0 + kappa)) - math.sqrt((1.0 - tau) * (1.0 + tau)) * kappa
    return np.where(inside, _positive(bound - _ROUNDING), np.nan)


def _positive(bound: np.ndarray) -> np.ndarray:
    return np.where(bound > 0.0, bound, np.nan)


def check_distance(d: float) -> None:
    """Raise ValueError for what cannot be a radius in units of σ."""
    if not 0.0 <= d < math.inf:
        raise ValueError(f"wanted d = ε/σ to be finite and not negative, got {d}; ε is a distance, σ > 0")


def check_caps(caps: Caps) -> None:
    """Raise ValueError for what cannot be pairs (τ, p)."""
    for cap in caps:
        if len(cap) != 2 or not (0.0 < cap[0] <= 1.0 and 0.0 <= cap[1] <= 1.0):
            raise ValueError(f"wanted caps (τ, p) with τ in (0, 1] and p in [0, 1], got {cap}; τ is a cosine")


def _check_constants(mean: float, caps: Caps, perp: float | None, method: str) -> None:
    if method not in get_args(CosineMethod):
        raise ValueError(f"wanted method to be one of {', '.join(get_args(CosineMethod))}; got {method!r}")
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"wanted a mean score in [0, 1], got {mean}; a mean cosine c is the score (1 + c)/2")
    check_caps(caps)
    if perp is not None and not 0.0 <= perp < math.inf:
        raise ValueError(f"wanted perp, the norm ρ, finite and not negative, got {perp}; None leaves it out")
