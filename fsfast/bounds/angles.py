"""From the cosine to a class: how far a feature may turn before its class changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# Rounding of scores and squared distances, in units of cosines; 1e-10 covers 10⁵ terms in float64.
_ROUNDING = 1e-10


def safe_angle(u_scores: np.ndarray, rows: np.ndarray, *, rounding: float = _ROUNDING) -> float:
    """Return the largest θ such that every vector within an angle < θ of u has the class of u.

    The class of y is the k with the largest ⟨y, w_k⟩. For every other class j, y keeps its side of the hyperplane
    between k and j while ⟨y, v⟩ > 0 for v = (w_k − w_j)/‖w_k − w_j‖, and every y within an angle θ of u does so
    exactly if θ < π/2 − angle(u, v) = arcsin⟨u, v⟩. The smallest over j is exact, too: the vector that turns from u
    towards −v by more than that has another class.

    Args:
        u_scores: [K] ⟨u, w_k⟩ of the unit anchor u, in the space of concatenated tokens.
        rows: [K, D], the w_k, in any space that keeps their inner products; they need not be of norm 1.
        rounding: errors of scores and squared distances, absolute, in units of the largest ‖w_k‖² (at least 1).

    Returns:
        θ in radians, in [0, π/2], rounded down; 0.0 where the best class is not unique.

    Raises:
        ValueError: fewer than two classes, other shapes, values that are not finite.
    """
    scores, rows = np.asarray(u_scores, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 2:
        raise ValueError(f"wanted scores [K] of K ≥ 2 classes, got shape {scores.shape}")
    if rows.ndim != 2 or len(rows) != len(scores):
        raise ValueError(f"wanted rows [{len(scores)}, D], got shape {rows.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(rows).all()):
        raise ValueError("wanted finite scores and rows; a row may be NaN")
    k = int(np.argmax(scores))
    others = np.arange(len(scores)) != k
    slack = rounding * max(1.0, float(np.square(rows).sum(1).max()))
    # An error of the squared distance only matters by rounding it up.
    distance = np.sqrt(np.square(rows - rows[k]).sum(1)[others] + 4.0 * slack)
    margin = (scores[k] - scores)[others] - 2.0 * slack
    sine = float(np.min(margin / distance))
    return max(0.0, math.asin(min(sine, 1.0)) - 1e-15) if sine > 0.0 else 0.0


def keeps_class(cosine: float | None, angle: float) -> bool:
    """Return whether a certified cosine keeps the class: arccos of it is below `angle`, with rounding to spare."""
    return cosine is not None and cosine > math.cos(angle) + 1e-15


def prediction_radius(
    u_scores: np.ndarray,
    rows: np.ndarray,
    bound: Callable[[float], float | None],
    *,
    ceiling: float,
    tolerance: float = 1e-6,
) -> float:
    """Return the largest ε within which the smoothed feature is certified to keep the class of the anchor.

    Args:
        u_scores, rows: as in `safe_angle`.
        bound: ε → certified lower bound of Cos(f̂(x'), u), or None; a method of a certificate.
        ceiling: no radius above it is looked for; 8.3 σ always suffices.
        tolerance: of the radius.

    Returns:
        The radius, 0.0 if there is none.

    Raises:
        ValueError: as `safe_angle` and `largest_radius`.
    """
    angle = safe_angle(u_scores, rows)
    return largest_radius(
        lambda epsilon: keeps_class(bound(epsilon), angle), ceiling=ceiling, tolerance=tolerance
    )


def largest_radius(condition: Callable[[float], bool], *, ceiling: float, tolerance: float = 1e-6) -> float:
    """Return a radius at which a condition holds, the largest to within `tolerance` if it holds up to some radius.

    Args:
        condition: radius → whether what is wanted is certified there.
        ceiling: no radius above it is looked for; > 0, finite.
        tolerance: > 0.

    Returns:
        A radius for which `condition` was True, or 0.0 if it is not even True at 0.

    Raises:
        ValueError: ceiling or tolerance not positive and finite.
    """
    for name, value in (("ceiling", ceiling), ("tolerance", tolerance)):
        if not 0.0 < value < math.inf:
            raise ValueError(f"wanted {name} positive and finite, got {value}")
    if condition(ceiling):
        return ceiling
    low, high = 0.0, ceiling
    while high - low > tolerance:
        middle = 0.5 * (low + high)
        if condition(middle):
            low = middle
        else:
            high = middle
    return low
