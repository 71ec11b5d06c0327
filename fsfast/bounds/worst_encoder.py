"""What the worst encoder does at given multipliers, on few nodes and approximately: material for a search.

At multipliers λ_0 and μ, and κ = cot θ, the worst encoder chooses z_u for every density ratio r; caps are kept where
that is cheapest. The caps' multipliers then drop out of the dual, and a concave function is left:

    F(κ, λ_0, μ) = λ_0 c − μρ + E min over z ≥ floor(r) of (1 − λ_0 r) z − |κ − μr| √(1 − z²).

The bound of the cosine is where the maximum of F over λ_0 and μ is 0. λ_k is the price of cap k at the edge of its
region. Nothing here has to be exact: `fsfast.bounds.dual` verifies what is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from fsfast.bounds.dual import Known

# The nodes cover t + d and t up to ± this.
_REACH = 6.5

# |κ − μr| is rounded off at 0 by this share of κ, times d where that is below 1.
_SOFT = 0.07

# Nodes of one region alone, of an outer one, and between two caps.
_ALONE, _OUTER, _BETWEEN = (np.polynomial.legendre.leggauss(count) for count in (96, 48, 8))


@dataclass(frozen=True, eq=False)
class Point:
    """κ, λ_0 and μ, [R] each."""

    kappa: np.ndarray
    zero: np.ndarray
    mu: np.ndarray

    def take(self, rows: np.ndarray) -> Point:
        """Return some rows."""
        return Point(self.kappa[rows], self.zero[rows], self.mu[rows])


@dataclass(frozen=True, eq=False)
class Problem:
    """Gauss–Legendre nodes for R radii.

    Attributes:
        about: what is known.
        d: [R].
        r, weights: [R, M] density ratios, rising mostly downwards, and their weights under x'.
    """

    about: Known
    d: np.ndarray
    r: np.ndarray
    weights: np.ndarray

    def take(self, rows: np.ndarray) -> Problem:
        """Return some rows."""
        return Problem(self.about, self.d[rows], self.r[rows], self.weights[rows])


def problem(d: np.ndarray, about: Known) -> Problem:
    """Place nodes between the quantiles of the caps, where regions often end."""
    shift = d[:, None]
    top, bottom = np.full_like(shift, _REACH), -shift - _REACH
    edges = np.concatenate([top, np.clip(about.quantiles - shift, bottom, top), bottom], axis=1)
    last = edges.shape[1] - 2
    ratios, weights = [], []
    # From the far end of x inwards: prices of caps are mostly sorted then.
    for k in reversed(range(last + 1)):
        points, mass = _ALONE if last == 0 else _OUTER if k in (0, last) else _BETWEEN
        half = 0.5 * (edges[:, k, None] - edges[:, k + 1, None])
        t = edges[:, k + 1, None] + half * (1.0 + points)
        ratios.append(np.exp(-shift * t - 0.5 * shift * shift))
        weights.append(half * mass * np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi))
    return Problem(about, d, np.concatenate(ratios, axis=1), np.concatenate(weights, axis=1))


@dataclass(frozen=True, eq=False)
class Regions:
    """Nodes with the floor of z_u, [R, M] each; side = √(1 − floor²); soft [R, 1].

    A node at the edge of a region is there three times: it belongs to both sides, in parts.
    """

    r: np.ndarray
    weights: np.ndarray
    floor: np.ndarray
    side: np.ndarray
    soft: np.ndarray


def regions(given: Problem, at: Point) -> tuple[Regions, np.ndarray]:
    """Return where caps are kept, and λ_k, [R, K].

    Keeping z_u ≥ τ_k instead of z_u ≥ τ_(k−1) costs m_k(r)·r. A share p_k of x's noise has to pay it, and pays
    where the price m_k is smallest; λ_k is the price at the edge.
    """
    r, weights = given.r, given.weights
    soft = _SOFT * np.minimum(given.d, 1.0)[:, None]
    a, lever, length = _sides(r, at, soft)
    floor, below, lower = np.full_like(r, -1.0), -length, -1.0
    caps = np.zeros((len(r), len(given.about.tau)))
    edges = []
    for k, (tau, p) in enumerate(zip(given.about.tau, given.about.p, strict=True)):
        cost = np.where(-a < tau * length, a * tau - lever * np.sqrt((1.0 - tau) * (1.0 + tau)), -length)
        price = (cost - below) / r
        caps[:, k], last, edge, part = _cheapest(price, weights * r, p)
        floor[price <= last[:, None]] = tau
        outside = (1.0 - part) * weights[edge]
        edges += [(r[edge], -outside, tau), (r[edge], outside, lower)]
        below, lower = cost, tau
    for ratio, weight, level in edges:
        r, weights = np.column_stack([r, ratio]), np.column_stack([weights, weight])
        floor = np.column_stack([floor, np.full_like(ratio, level)])
    return Regions(r, weights, floor, np.sqrt((1.0 - floor) * (1.0 + floor)), soft), np.maximum(caps, 0.0)


def _cheapest(
    price: np.ndarray, under_x: np.ndarray, p: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Find the cheapest nodes that together have probability p under x.

    Args:
        price, under_x: [R, M].
        p: a share.

    Returns:
        The price at the edge between the middles of two nodes, the highest price that is paid, [R] each, the
        index of that node, and the part of it that belongs to the region, [R].
    """
    rows, most = np.arange(len(price)), price.shape[1] - 1
    order = np.argsort(price, axis=1, kind="stable")
    mass = under_x.ravel()[order + rows[:, None] * price.shape[1]]
    total = np.cumsum(mass, axis=1)
    place = np.minimum((total < p).sum(axis=1), most)
    part = 1.0 + np.clip((p - total[rows, place]) / np.maximum(mass[rows, place], 1e-300), -1.0, 0.0)
    beside = np.clip(place + np.where(part < 0.5, -1, 1), 0, most)
    edge = (rows, order[rows, place])
    last = price[edge]
    between = last + np.abs(part - 0.5) * (price[rows, order[rows, beside]] - last)
    return between, last, edge, part


@dataclass(frozen=True, eq=False)
class Slopes:
    """F, its first derivatives in κ, λ_0 and μ, and its second ones in λ_0 and μ, [R] each."""

    value: np.ndarray
    kappa: np.ndarray
    zero: np.ndarray
    mu: np.ndarray
    zero_zero: np.ndarray
    zero_mu: np.ndarray
    mu_mu: np.ndarray

    def updated(self, better: np.ndarray, other: Slopes) -> Slopes:
        """Return these with the rows of another one where it is better, [R] bool."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Slopes(*(np.where(better, theirs, ours) for ours, theirs in pairs))


def evaluate(kept: Regions, at: Point, about: Known) -> Slopes:
    """Evaluate F with fixed regions; where they are the cheapest, these are F's slopes with moving ones, too."""
    a, lever, length = _sides(kept.r, at, kept.soft)
    b = at.kappa[:, None] - at.mu[:, None] * kept.r
    floored = -a < kept.floor * length
    value = np.where(floored, a * kept.floor - lever * kept.side, -length)
    by_a = np.where(floored, kept.floor, -a / length)
    by_b = -np.where(floored, kept.side / lever, 1.0 / length) * b
    cube = np.where(floored, 0.0, length**-3)
    # lever² − b²: what rounding off adds.
    rest = lever * lever - b * b
    by_bb = -np.where(floored, rest * kept.side / lever**3, (a * a + rest) * cube)
    first = kept.weights * kept.r
    second = first * kept.r
    return Slopes(
        value=at.zero * about.c - at.mu * about.rho + (kept.weights * value).sum(axis=1),
        kappa=(kept.weights * by_b).sum(axis=1),
        zero=about.c - (first * by_a).sum(axis=1),
        mu=-about.rho - (first * by_b).sum(axis=1),
        zero_zero=-(second * b * b * cube).sum(axis=1),
        zero_mu=(second * a * b * cube).sum(axis=1),
        mu_mu=(second * by_bb).sum(axis=1),
    )


def _sides(r: np.ndarray, at: Point, soft: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 1 − λ_0 r, |κ − μr| rounded off, and their hypotenuse, [R, M]."""
    a = 1.0 - at.zero[:, None] * r
    square = (at.kappa[:, None] - at.mu[:, None] * r) ** 2 + (soft * at.kappa[:, None]) ** 2
    return a, np.sqrt(square), np.sqrt(a * a + square)


def smallest_inner_product(d: np.ndarray, about: Known) -> tuple[np.ndarray, float]:
    """Return the smallest E'⟨f, u⟩, [R], that the mean and the caps allow, and the quantile that attains it.

    Neyman–Pearson: z_u = 1 where t + d ≤ q, and the highest floor that is due elsewhere; q makes E z_u = c.
    """
    edges = np.concatenate([[np.inf], about.quantiles, [-np.inf]])
    floors = np.concatenate([[-1.0], about.tau])

    def mean(q: float, shift: np.ndarray) -> np.ndarray:
        high = ndtr(edges[:-1] - shift[:, None])
        low = ndtr(np.maximum(edges[1:], q) - shift[:, None])
        return np.asarray(ndtr(q - shift) + np.maximum(high - low, 0.0) @ floors)

    low, high = -8.0, 8.0
    for _ in range(36):
        middle = 0.5 * (low + high)
        if mean(middle, np.zeros(1))[0] < about.c:
            low = middle
        else:
            high = middle
    return mean(high, d), high
