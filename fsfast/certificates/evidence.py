"""From samples to the constants of a certificate: how α is spent, and what holds with probability ≥ 1 − α.

Scores are (1 + c)/2 with c the inner product of a sample's unit feature with the anchor. The noise is an integer
one, whose distribution differs from the rounded Gaussian by η in total variation: η is taken off every probability
and every mean of numbers in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fsfast.bounds import MeanMethod, mean_lower_bound, perpendicular_upper_bound, proportion_lower_bound

# Samples of the pilot stream; thresholds are chosen from them, before any certification noise is drawn.
PILOT = 64
# Scores and thresholds are multiples of this, so that comparing rounded ones gives what the exact ones would.
SCORE_UNIT = 2.0**-20

# Places of the thresholds: so many spreads of the pilot's scores below their median.
_SPREADS = (0.0, 1.0, 2.0, 3.5, 5.5, 9.0)
MOST_CAPS = len(_SPREADS)


@dataclass(frozen=True)
class Budget:
    """How the probability of error is spent; mean + caps·cap + perpendicular ≤ alpha.

    Attributes:
        mean: on the mean score.
        cap: on each share of scores above a threshold.
        perpendicular: on the mean feature's length across the anchor; 0 where sampling may stop early.
    """

    mean: float
    cap: float
    perpendicular: float

    @classmethod
    def of(cls, alpha: float, caps: int, stopped: bool) -> Budget:
        """Return the shares of α.

        Args:
            alpha: in (0, 1).
            caps: number of thresholds.
            stopped: whether sampling may stop early; then there is no bound across the anchor.
        """
        if not caps:
            return cls(alpha if stopped else 0.8 * alpha, 0.0, 0.0 if stopped else 0.2 * alpha)
        if stopped:
            return cls(0.25 * alpha, 0.75 * alpha / caps, 0.0)
        return cls(0.2 * alpha, 0.6 * alpha / caps, 0.2 * alpha)


@dataclass(frozen=True)
class Constants:
    """What is known about the encoder at x, all at once, with probability ≥ 1 − α.

    Attributes:
        mean: S_L ≤ E score.
        caps: pairs (τ, p): P(⟨f, u⟩ ≥ τ) ≥ p.
        perp: ρ ≥ the norm of f̂(x)'s component orthogonal to u, or None.
    """

    mean: float
    caps: tuple[tuple[float, float], ...]
    perp: float | None


def choose_thresholds(pilot: np.ndarray) -> tuple[float, ...]:
    """Return thresholds of the score, falling, from the pilot's scores.

    They reach from the median to far below every pilot sample, in units of the scores' spread: the first ones
    describe the bulk, the last one is passed by all samples, so that its share is bounded as well as n allows.

    Args:
        pilot: [n] scores, from noise that nothing else uses.

    Returns:
        Multiples of 2⁻²⁰ above ½: inner products above 0. None where the pilot's median is not above.
    """
    median = float(np.median(pilot))
    spread = float(median - np.quantile(pilot, 0.16))
    places = {np.floor((median - k * max(spread, SCORE_UNIT)) / SCORE_UNIT) * SCORE_UNIT for k in _SPREADS}
    return tuple(sorted((float(place) for place in places if place > 0.5), reverse=True))


def constants(
    scores: np.ndarray,
    thresholds: tuple[float, ...],
    perp_norm: float | None,
    budget: Budget,
    total_variation: float,
    method: MeanMethod = "mixture",
) -> Constants:
    """Return what the certification samples say.

    Args:
        scores: [n] multiples of 2⁻²⁰, rounded down.
        thresholds: of the score, chosen before.
        perp_norm: ‖P_⊥ m̂‖, the length across the anchor of the samples' mean unit feature; None where n was
            not fixed before sampling.
        budget: how α is spent.
        total_variation: η.
        method: confidence bound of the mean.
    """
    n = len(scores)
    mean = _less(float(mean_lower_bound(scores, budget.mean, method)), total_variation)
    above = [int(np.count_nonzero(scores >= threshold)) for threshold in thresholds]
    caps = []
    for threshold, count in zip(thresholds, above, strict=True):
        if perp_norm is None:
            hits = np.arange(n) < count
            share = float(mean_lower_bound(hits.astype(np.float64), budget.cap, "mixture"))
        else:
            share = float(proportion_lower_bound(count, n, budget.cap))
        caps.append((2.0 * threshold - 1.0, _less(share, total_variation)))
    perp = None
    if perp_norm is not None and mean > 0.5:
        perp = perpendicular_upper_bound(
            perp_norm, 2.0 * mean - 1.0, n, budget.perpendicular, total_variation=total_variation
        )
    return Constants(mean, tuple(caps), perp)


def _less(bound: float, total_variation: float) -> float:
    return max(0.0, float(np.nextafter(bound - total_variation, -1.0)))
