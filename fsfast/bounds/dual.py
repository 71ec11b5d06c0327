"""Verified weak duality: what is known about an encoder at x, and what follows at x'.

Let f(x + σZ) have inner product z_u with the anchor u, and z_w with any unit w ⟂ u. Known at x are E z_u ≥ c,
P(z_u ≥ τ_k) ≥ p_k and |E z_w| ≤ ρ. Seen from x' at distance dσ, the density of x over that of x' is
r = exp(−dt − d²/2), t ~ N(0, 1). For any multipliers λ_0, λ_k, μ ≥ 0, any angle θ and any w,

    E'⟨f, sin θ·u − cos θ·w⟩ ≥ λ_0 c + Σ λ_k p_k − μρ + E ψ(r),
    ψ(r) = min over z_u in [−1, 1] of (sin θ − λ_0 r) z_u − |cos θ − μ r| √(1 − z_u²) − r Σ_k λ_k 1{z_u ≥ τ_k},

because the multipliers only add terms that are not positive, and ‖f‖ ≤ 1. If the right side is positive for
some θ < π/2 then Cos(f̂(x'), u) ≥ cos θ. This file computes a lower bound of the right side with every error
counted; where the multipliers come from does not matter for soundness. Derivation: docs/certificates.md §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

# Quadrature covers t in [−d − _REACH, _REACH]; what lies outside is bounded by its probability, 3e-14.
_REACH = 7.5

# Cells of the verification; the chords lose about 4e-6 of the value (measured: tests/bounds/test_dual.py).
_CELLS = 600

# What rounding may do, in units of 1 + Σ multipliers, with u = 2⁻⁵³ and at most 1000 cells: 8u for ψ; u·|ln r| ≤
# 4e-14 for r; 4u per cell for its probability and for its first moment (what a cell's upper end has too much its
# lower end has too little, so that an error is multiplied by the rise of ψ within the cell, not by ψ/width); 1000u
# for the sum. That is 1e-12 at most; 4e-14 were measured for the weights (tests/bounds/test_dual.py).
_SLACK = 2e-12


@dataclass(frozen=True, eq=False)
class Known:
    """Constants of an encoder at x, sorted and stripped of what says nothing.

    Attributes:
        c: lower bound of E z_u, in [−1, 1].
        tau: [K] thresholds, rising, in (−1, 1].
        p: [K] lower bounds of P(z_u ≥ τ_k), strictly falling, in (Φ(−7), Φ(7)).
        rho: upper bound of the norm of f̂'s component orthogonal to u; 1.0 says nothing.
    """

    c: float
    tau: np.ndarray
    p: np.ndarray
    rho: float

    @property
    def quantiles(self) -> np.ndarray:
        """Φ⁻¹(p), [K]: the worst case leaves cap k where t + d exceeds it."""
        return ndtri(self.p)


def known(mean: float, caps: Sequence[tuple[float, float]] = (), perp: float | None = None) -> Known:
    """Bring a mean score, caps and a perpendicular norm into the form of `Known`.

    Rounding p down to Φ(7), or leaving a constant out, can only lower a bound.

    Args:
        mean: S_L, a score.
        caps: pairs (τ, p).
        perp: ρ, or None.
    """
    c = 2.0 * mean - 1.0
    tau, p = np.array(sorted(caps), dtype=np.float64).reshape(-1, 2).T
    # P(z_u ≥ τ) falls in τ: what holds for a threshold holds for the lower ones.
    p = np.minimum(np.maximum.accumulate(p[::-1])[::-1], ndtr(7.0))
    useful = (p > ndtr(-7.0)) & (tau > -1.0)
    useful[:-1] &= p[:-1] > p[1:]
    # ‖f̂‖ ≤ 1 already implies √(1 − c²).
    implied = perp is None or (c > 0.0 and perp * perp >= 1.0 - c * c)
    return Known(c, tau[useful], p[useful], 1.0 if perp is None or implied else min(perp, 1.0))


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Multipliers for R radii, in units where sin θ = 1 and cos θ = κ = cot θ; none is negative.

    Attributes:
        zero: [R] λ_0, of the mean.
        caps: [R, K] λ_k.
        mu: [R] μ, of the perpendicular norm.
    """

    zero: np.ndarray
    caps: np.ndarray
    mu: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """[R] λ_0 + Σ λ_k + μ: the slope of ψ never exceeds it."""
        return self.zero + self.caps.sum(axis=1) + self.mu


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and weights for R radii: Σ weights·ψ(r) ≤ E ψ(r) + what `tail` accounts for, for every concave ψ.

    A concave function lies above its chords, and the moments of a chord over a cell are exact: the cell's
    probability and its first moment are differences of Φ at t and at t + d.

    Attributes:
        r, weights: [R, M].
        tail: probability outside, on one side, under x' and (the same number) under x.
    """

    r: np.ndarray
    weights: np.ndarray
    tail: float


def quadrature(d: np.ndarray, t: np.ndarray) -> Quadrature:
    """Make the quadrature for nodes t.

    Args:
        d: [R], > 0.
        t: [R, M] falling from _REACH to −d − _REACH; equal neighbours are allowed.
    """
    shift = d[:, None]
    r = np.exp(-shift * t - 0.5 * shift**2)
    probability = ndtr(t[:, :-1]) - ndtr(t[:, 1:])
    moment = ndtr(t[:, :-1] + shift) - ndtr(t[:, 1:] + shift)
    width = r[:, :-1] * np.expm1(shift * (t[:, :-1] - t[:, 1:]))
    # Cells so small that rounding decides are kept between the two ends.
    upper = np.divide(moment - r[:, :-1] * probability, width, out=np.zeros_like(width), where=width > 0.0)
    upper = np.clip(upper, 0.0, probability)
    weights = np.zeros_like(r)
    weights[:, :-1] += probability - upper
    weights[:, 1:] += upper
    return Quadrature(r, weights, float(ndtr(-_REACH)))


def nodes(d: np.ndarray, kappa: np.ndarray, multipliers: Multipliers, about: Known) -> np.ndarray:
    """Place nodes t, [R, M] falling, where ψ bends, at its kinks, and enough of them elsewhere.

    Args:
        d: [R]; kappa: [R] cot θ, about where the dual will be evaluated.
        multipliers, about: as everywhere.
    """
    shift = d[:, None]
    grid = _REACH - (2.0 * _REACH + shift) * np.linspace(0.0, 1.0, 201)
    middle = 0.5 * (grid[:, 1:] + grid[:, :-1])
    r = np.exp(-shift * middle - 0.5 * shift**2)
    # Where no threshold binds ψ = −hypot(1 − λ_0 r, κ − μr), whose curvature is ∝ hypot⁻³. A cell of width h loses
    # ∝ h³·curvature·density, which is evened out by nodes ∝ its cube root.
    bend = np.hypot(1.0 - multipliers.zero[:, None] * r, kappa[:, None] - multipliers.mu[:, None] * r)
    curved = np.exp(-(middle**2) / 6.0) * r ** (2.0 / 3.0) / (bend + 1e-6)
    likely = np.exp(-(middle**2) / 6.0) + np.exp(-((middle + shift) ** 2) / 6.0)
    density = 0.6 * _normalised(curved) + 0.2 * _normalised(likely) + 0.2 / middle.shape[1]
    share = np.concatenate([np.zeros_like(shift), np.cumsum(density, axis=1)], axis=1)
    at = np.linspace(0.0, 1.0, _CELLS + 1)
    placed = np.stack([np.interp(at, s / s[-1], t) for s, t in zip(share, grid, strict=True)])
    with np.errstate(divide="ignore", invalid="ignore"):
        kinks = [1.0 / multipliers.zero, kappa / multipliers.mu]
        turns = [np.nan_to_num(-np.log(k) / d - 0.5 * d)[:, None] for k in kinks]
    extra = np.concatenate([about.quantiles[None] - shift, *turns], axis=1)
    every = np.concatenate([placed, np.clip(extra, grid[:, -1:], grid[:, :1])], axis=1)
    return -np.sort(-every, axis=1)


def verified_value(rule: Quadrature, kappa: np.ndarray, multipliers: Multipliers, about: Known) -> np.ndarray:
    """Return a lower bound of λ_0 c + Σ λ_k p_k − μρ + E ψ(r), [R], in units where sin θ = 1.

    Args:
        rule: nodes and weights.
        kappa: [R] cot θ. At κ = 0 the value is a lower bound of E'⟨f, u⟩.
        multipliers, about: as everywhere.

    Returns:
        [R]; NaN where a multiplier is not finite.
    """
    # All in units where ‖(sin θ, cos θ)‖ = 1: ψ ≥ −1 − r·total, and errors are relative to 1 + total.
    length = np.hypot(1.0, kappa)
    # Below 0 a multiplier would turn its inequality round.
    zero = np.maximum(multipliers.zero, 0.0) / length
    caps = np.maximum(multipliers.caps, 0.0) / length[:, None]
    mu = np.maximum(multipliers.mu, 0.0) / length
    with np.errstate(invalid="ignore"):
        psi = _psi(rule.r, 1.0 / length, kappa / length, zero, caps, mu, about.tau)
        value = zero * about.c + caps @ about.p - mu * about.rho + (rule.weights * psi).sum(axis=1)
    error = (2.0 * rule.tail + _SLACK) * (1.0 + zero + caps.sum(axis=1) + mu)
    return (value - error) * length


def _psi(
    r: np.ndarray,
    sine: np.ndarray,
    cosine: np.ndarray,
    zero: np.ndarray,
    caps: np.ndarray,
    mu: np.ndarray,
    tau: np.ndarray,
) -> np.ndarray:
    """Return ψ(r), [R, M].

    Without the caps the argument is convex in z_u with its smallest value −hypot at the stationary point. With
    them it is smallest there or at a threshold, from where the next cap counts.
    """
    slope = sine[:, None] - zero[:, None] * r
    lever = np.abs(cosine[:, None] - mu[:, None] * r)
    length = np.hypot(slope, lever)
    # Where both are 0 every z_u is stationary, and 1 earns all caps.
    stationary = np.divide(-slope, length, out=np.ones_like(slope), where=length > 0.0)
    earned = np.zeros_like(r)
    lowest = np.full_like(r, np.inf)
    sums = np.cumsum(caps, axis=1)
    for k, threshold in enumerate(tau):
        np.copyto(earned, sums[:, k, None], where=stationary >= threshold)
        side = np.sqrt((1.0 - threshold) * (1.0 + threshold))
        # threshold·slope − sums·r, in one product.
        at_threshold = threshold * sine[:, None] - (threshold * zero + sums[:, k])[:, None] * r
        at_threshold -= side * lever
        np.minimum(lowest, at_threshold, out=lowest)
    return np.minimum(lowest, -length - r * earned)


def _normalised(density: np.ndarray) -> np.ndarray:
    return density / density.sum(axis=1, keepdims=True)
