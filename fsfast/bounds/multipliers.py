"""Search for good multipliers of the dual, for many radii at once.

Rounds of damped Newton steps in (λ_0, μ) at fixed κ = cot θ, each followed by a step in κ. Nothing here has to be
exact: `fsfast.bounds.dual` verifies whatever is found, and poor multipliers cost tightness only.
"""

from __future__ import annotations

import numpy as np

from fsfast.bounds.dual import Known, Multipliers
from fsfast.bounds.worst_encoder import (
    Point,
    Problem,
    Regions,
    Slopes,
    evaluate,
    problem,
    regions,
    smallest_inner_product,
)

# Closer than this, in units of σ, extrapolated multipliers are worth a try.
CLOSE = 0.03

_ROUNDS = 8
_STEPS = 2
_ATTEMPTS = 5


def search(d: np.ndarray, about: Known) -> tuple[np.ndarray, np.ndarray, Multipliers]:
    """Return κ about where the dual is 0, the slope of the dual in κ there, and good multipliers.

    Args:
        d: [R], > 0, all with a positive bound of the inner product.
        about: what is known.

    Returns:
        κ and its slope (< 0), [R] each, and the multipliers. A radius's result does not depend on the others.
    """
    given = problem(d, about)
    at, slope = _solve(given)
    return at.kappa, slope, _with_caps(given, at)


def extrapolate(d: np.ndarray, about: Known) -> tuple[np.ndarray, np.ndarray, Multipliers]:
    """Do the same for radii below CLOSE, from the solutions at CLOSE and twice that.

    Very close to x the problem is nearly singular: λ_0 and μ/κ are 1 up to errors that have to be small compared
    with d. They are nearly linear in d, however.
    """
    at, slope = _solve(problem(np.array([CLOSE, 2.0 * CLOSE]), about))
    near, far = np.stack([at.kappa, at.zero, at.mu, slope], axis=1)
    found = near + (near - far) * (1.0 - d / CLOSE)[:, None]
    # Within a factor of two signs are kept.
    found = np.clip(found, np.minimum(0.5 * near, 2.0 * near), np.maximum(0.5 * near, 2.0 * near))
    kappa, zero, mu, slope = found.T
    at = Point(kappa, zero, np.minimum(mu, kappa))
    return kappa, slope, _with_caps(problem(d, about), at)


def inner_multipliers(d: np.ndarray, about: Known) -> Multipliers:
    """Return the best multipliers for θ = π/2, which are known in closed form."""
    _, quantile = smallest_inner_product(d, about)
    zero = np.exp(d * (quantile - d) + 0.5 * d * d)
    r = np.exp(-d[:, None] * about.quantiles + 0.5 * d[:, None] ** 2)
    # Keeping cap k instead of cap k − 1 raises z_u by the difference; the price is the one at the edge.
    rise = np.diff(about.tau, prepend=-1.0)
    return Multipliers(zero, np.maximum(1.0 - zero[:, None] * r, 0.0) * rise / r, np.zeros_like(d))


def _with_caps(given: Problem, at: Point) -> Multipliers:
    _, caps = regions(given, at)
    return Multipliers(at.zero, caps, at.mu)


def _solve(given: Problem) -> tuple[Point, np.ndarray]:
    """Return κ, λ_0 and μ where the maximum of F is 0, and the slope of F in κ, [R]."""
    d, about = given.d, given.about
    inner, quantile = smallest_inner_product(d, about)
    inner = np.clip(inner, 0.05, 1.0 - 1e-9)
    kappa = inner / np.sqrt(1.0 - inner * inner)
    zero = np.exp(d * (quantile - d) + 0.5 * d * d)
    # μ/κ hardly depends on anything else: 1 − d/4 where ρ is felt.
    mu = np.maximum(1.0 - 0.25 * d, 0.3) * kappa if about.rho < 1.0 else np.zeros_like(d)
    slope = np.empty_like(d)
    moving = np.arange(len(d))
    for _ in range(_ROUNDS):
        found, slopes = _improve(given.take(moving), Point(kappa[moving], zero[moving], mu[moving]))
        # Along the ray of fixed μ/κ, on which the solution hardly depends.
        along = np.minimum(slopes.kappa + found.mu / found.kappa * slopes.mu, -1e-9)
        factor = np.clip(1.0 - slopes.value / (along * found.kappa), 0.5, 2.0)
        kappa[moving], zero[moving], mu[moving] = found.kappa * factor, found.zero, found.mu * factor
        slope[moving] = np.minimum(slopes.kappa, -1e-9)
        moving = moving[np.abs(factor - 1.0) > 1e-5]
        if not len(moving):
            break
    return Point(kappa, zero, mu), slope


def _improve(given: Problem, start: Point) -> tuple[Point, Slopes]:
    """Raise F at κ, with the regions of the caps chosen anew wherever it is evaluated.

    Climbing with fixed regions gives a direction in which F rises, but may go too far: it is cut back.
    """
    about, kappa = given.about, start.kappa
    kept, _ = regions(given, start)
    best = evaluate(kept, start, about)
    top = _climb(kept, start, best, about)
    zero_step, mu_step = top.zero - start.zero, top.mu - start.mu
    rise = best.zero * zero_step + best.mu * mu_step
    zero, mu = start.zero.copy(), start.mu.copy()
    waiting = np.arange(len(kappa))
    for attempt in range(_ATTEMPTS):
        trial = Point(kappa, start.zero + zero_step, start.mu + mu_step).take(waiting)
        kept, _ = regions(given.take(waiting), trial)
        there = evaluate(kept, trial, about)
        fall = -(there.zero * zero_step[waiting] + there.mu * mu_step[waiting])
        better = there.value >= best.value[waiting] - 1e-10 * (1.0 + trial.kappa)
        # Beyond the ridge a step does not help much, although F may have risen.
        if attempt < _ATTEMPTS - 1:
            better &= fall <= 0.5 * rise[waiting]
        done = waiting[better]
        zero[done], mu[done] = trial.zero[better], trial.mu[better]
        for whole, part in zip(vars(best).values(), vars(there).values(), strict=True):
            whole[done] = part[better]
        # Where the slope along the step would be 0, were it linear.
        cut = np.clip(rise[waiting] / np.maximum(rise[waiting] + fall, 1e-300), 0.1, 0.7)[~better]
        waiting = waiting[~better]
        if not len(waiting):
            break
        for step in (zero_step, mu_step, rise):
            step[waiting] *= cut
    return Point(kappa, zero, mu), best


def _climb(kept: Regions, at: Point, here: Slopes, about: Known) -> Point:
    """Take Newton steps in (λ_0, μ) with fixed regions, each quartered until F does not fall."""
    for _ in range(_STEPS):
        zero_step, mu_step = _newton(here, at)
        waiting = np.ones_like(at.kappa, dtype=bool)
        for _ in range(4):
            trial = Point(at.kappa, at.zero + waiting * zero_step, at.mu + waiting * mu_step)
            there = evaluate(kept, trial, about)
            # Near the maximum rounding decides; a step is then as good as none.
            better = waiting & (there.value >= here.value - 1e-10 * (1.0 + at.kappa))
            at = Point(at.kappa, np.where(better, trial.zero, at.zero), np.where(better, trial.mu, at.mu))
            here = here.updated(better, there)
            waiting &= ~better
            if not waiting.any():
                break
            zero_step, mu_step = 0.25 * zero_step, 0.25 * mu_step
    return at


def _newton(here: Slopes, at: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return the Newton step in (λ_0, μ), at most about threefold, and neither below 0."""
    # At 0, with F falling, a multiplier stays.
    moves, turns = (at.zero > 0.0) | (here.zero > 0.0), (at.mu > 0.0) | (here.mu > 0.0)
    by_zero, by_mu = np.where(moves, here.zero, 0.0), np.where(turns, here.mu, 0.0)
    cross = np.where(moves & turns, here.zero_mu, 0.0)
    zero_zero, mu_mu = here.zero_zero * (1.0 + 1e-9) - 1e-12, here.mu_mu * (1.0 + 1e-9) - 1e-12
    determinant = zero_zero * mu_mu - cross * cross
    determinant = np.where(determinant > 0.0, determinant, np.inf)
    zero_step = (cross * by_mu - mu_mu * by_zero) / determinant
    mu_step = (cross * by_zero - zero_zero * by_mu) / determinant
    # One factor for both keeps the direction.
    scale = np.minimum(1.0, (3.0 * at.zero + 1.0) / np.maximum(zero_step, 1e-100))
    most = 3.0 * at.mu + (at.zero + 0.1) * at.kappa
    scale = np.minimum(scale, most / np.maximum(mu_step, 1e-100))
    return np.maximum(scale * zero_step, -at.zero), np.maximum(scale * mu_step, -at.mu)
