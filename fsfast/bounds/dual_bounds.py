"""From what is known about an encoder to the best bounds that the dual gives, verified.

Multipliers are searched for, then κ = cot θ is chosen such that the dual's value is verified to be positive.
"""

from __future__ import annotations

import numpy as np

from fsfast.bounds.dual import Known, Multipliers, Quadrature, nodes, quadrature, verified_value
from fsfast.bounds.multipliers import CLOSE, extrapolate, inner_multipliers, search
from fsfast.bounds.worst_encoder import smallest_inner_product

# No constants below 1 certify a positive inner product farther out: Φ⁻¹(1 − 2⁻⁵³) = 8.2.
FARTHEST = 8.25

# The dual is evaluated no closer than here; bounds fall with d, so that what holds here holds closer, too.
_NEAREST = 1e-3

# Evaluations in the search for κ at fixed multipliers; the last one changes b by less than 1e-5.
_EVALUATIONS = 5


def inner_product_bounds(d: np.ndarray, about: Known) -> np.ndarray:
    """Return lower bounds of ⟨f̂(x'), u⟩, [R]; not positive or NaN where nothing is certified.

    Args:
        d: [R] ≥ 0.
        about: what is known.
    """
    at = np.clip(d, _NEAREST, FARTHEST)
    multipliers = inner_multipliers(at, about)
    kappa = np.zeros_like(at)
    rule = quadrature(at, nodes(at, kappa, multipliers, about))
    return np.where(d < FARTHEST, verified_value(rule, kappa, multipliers, about), np.nan)


def cosine_bounds(d: np.ndarray, about: Known) -> np.ndarray:
    """Return cos θ for about the smallest θ at which the dual is verified to be positive, [R]; NaN where there is none.

    Args:
        d: [R] ≥ 0.
        about: what is known.
    """
    bound = np.full_like(d, np.nan)
    at = np.maximum(d, _NEAREST)
    # Where the inner product need not be positive the cosine need not be, either.
    hopeful = (d < FARTHEST) & (smallest_inner_product(at, about)[0] > 0.0)
    if not hopeful.any():
        return bound
    at = at[hopeful]
    found = _verify(at, search(at, about), about)
    close = at < CLOSE
    if close.any():
        found[close] = np.fmax(found[close], _verify(at[close], extrapolate(at[close], about), about))
    bound[hopeful] = found
    return bound


def _verify(d: np.ndarray, guess: tuple[np.ndarray, np.ndarray, Multipliers], about: Known) -> np.ndarray:
    """Return the bound that a guess (κ, its slope, multipliers) is good for, [R], NaN where there is none."""
    kappa, slope, multipliers = guess
    rule = quadrature(d, nodes(d, kappa, multipliers, about))
    kappa = _largest_kappa(kappa, slope, rule, multipliers, about)
    # (κ, 1) stands for (cos θ, sin θ); four roundings.
    return np.asarray(kappa / np.hypot(1.0, kappa) * (1.0 - 1e-15))


def _largest_kappa(
    kappa: np.ndarray, slope: np.ndarray, rule: Quadrature, multipliers: Multipliers, about: Known
) -> np.ndarray:
    """Return about the largest κ with a verified value > 0, [R]; NaN where none was met.

    At fixed multipliers the value is concave in κ and falls where it crosses 0. Secants, each aimed a little below the
    crossing, so that the last ones come from the safe side.

    Args:
        kappa: [R] first guess.
        slope: [R] < 0, about how the value falls there.
        rule, multipliers, about: as everywhere.
    """
    low, high = np.zeros_like(kappa), np.full_like(kappa, np.inf)
    before, value_before = kappa, np.full_like(kappa, np.nan)
    for _ in range(_EVALUATIONS):
        value = verified_value(rule, kappa, multipliers, about)
        low = np.where(value > 0.0, np.maximum(low, kappa), low)
        high = np.where(value > 0.0, high, np.minimum(high, kappa))
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = (value - value_before) / (kappa - before)
        slope = np.where(secant < 0.0, secant, slope)
        before, value_before = kappa, value
        step = -value / slope
        # Farther below as long as nothing positive was met.
        aim = kappa + step - np.where(low > 0.0, 0.03, 0.3) * np.abs(step) - 1e-10 * kappa
        kappa = np.where((aim > low) & (aim < high), aim, 0.5 * (low + np.minimum(high, 2.0 * kappa)))
    return np.where(low > 0.0, low, np.nan)
