"""Encoders for which everything is known exactly: functions of one coordinate of the noise, constant on intervals.

Seen from x the coordinate s is standard normal; at distance d towards x' it is normal around d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True)
class Steps:
    """An encoder with value `values[i]` on the i-th interval.

    Attributes:
        edges: [M − 1], rising; the intervals between them and beyond.
        values: [M, D] in the unit ball; the anchor is the first axis.
    """

    edges: np.ndarray
    values: np.ndarray

    def probabilities(self, d: float = 0.0) -> np.ndarray:
        """[M], at distance d."""
        return np.diff(ndtr(self.edges - d), prepend=0.0, append=1.0)

    def smoothed(self, d: float = 0.0) -> np.ndarray:
        """f̂ at distance d, [D]."""
        return self.probabilities(d) @ self.values

    def cosine(self, d: float) -> float:
        """Cos(f̂, u) at distance d."""
        mean = self.smoothed(d)
        return float(mean[0] / np.linalg.norm(mean))

    def mean_score(self) -> float:
        """S at x."""
        return 0.5 * (1.0 + float(self.smoothed()[0]))

    def caps(self, thresholds) -> list[tuple[float, float]]:
        """(τ, P(z_u ≥ τ)) at x."""
        p = self.probabilities()
        return [(float(t), float(p[self.values[:, 0] >= t].sum())) for t in thresholds]

    def perp(self) -> float:
        """‖P_⊥ f̂(x)‖."""
        return float(np.linalg.norm(self.smoothed()[1:]))


def random_steps(rng: np.random.Generator, intervals: int = 12, dimensions: int = 3) -> Steps:
    """Draw an encoder that mostly points along the anchor, the less the farther towards x'."""
    edges = np.sort(rng.normal(0.7, 1.3, intervals - 1))
    values = rng.normal(size=(intervals, dimensions))
    values[:, 0] += np.linspace(rng.uniform(2.0, 12.0), rng.uniform(-3.0, 3.0), intervals)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    # Some are shorter: zero features, too.
    lengths = np.where(rng.random(intervals) < 0.3, rng.random(intervals), 1.0)
    return Steps(edges, values * lengths[:, None])


def worst_steps(
    d: float,
    kappa: float,
    zero: float,
    mu: float,
    floors: list[tuple[float, float]],
    cells: int = 3000,
) -> Steps:
    """Make the encoder that the dual's minimum describes, on fine cells of s.

    (z_u, z_w) minimises (1 − λ_0 r) z_u − (κ − μr) z_w over the unit disc with z_u ≥ τ for s ≤ q.

    Args:
        d: where the density ratio is taken.
        kappa, zero, mu: κ, λ_0, μ.
        floors: pairs (q, τ), q falling as τ rises.
        cells: number of cells.
    """
    edges = np.linspace(-8.0, d + 8.0, cells - 1)
    middle = np.concatenate([edges[:1], 0.5 * (edges[1:] + edges[:-1]), edges[-1:]])
    r = np.exp(-d * middle + 0.5 * d * d)
    a, b = 1.0 - zero * r, kappa - mu * r
    z = -a / np.hypot(a, b)
    for quantile, tau in floors:
        z = np.where(middle <= quantile, np.maximum(z, tau), z)
    return Steps(edges, np.stack([z, np.sign(b) * np.sqrt(1.0 - z * z)], axis=1))
