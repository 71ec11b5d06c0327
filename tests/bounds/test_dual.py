"""The dual: quadrature, ψ and the verified value against brute force, and against a linear programme from above."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linprog
from scipy.special import ndtr, ndtri

from fsfast.bounds import dual
from fsfast.bounds.cosine import cosine_lower_bound
from fsfast.bounds.dual import Multipliers, known, nodes, quadrature, verified_value
from fsfast.bounds.multipliers import search

NOTHING = known(0.0)


def multipliers(zero, caps=(), mu=0.0):
    return Multipliers(np.array([zero]), np.array([caps], dtype=float).reshape(1, -1), np.array([mu]))


def rule_for(d, kappa=1.0, about=NOTHING, found=None):
    d, kappa = np.array([d]), np.array([kappa])
    found = multipliers(1.0, np.zeros(len(about.tau))) if found is None else found
    return quadrature(d, nodes(d, kappa, found, about))


def psi_by_grid(r, sine, cosine, zero, caps, mu, tau):
    """ψ(r) from its definition, on a grid of angles, and at the thresholds."""
    z = np.concatenate([np.cos(np.linspace(0.0, np.pi, 20001)), tau])
    value = (sine - zero * r) * z - abs(cosine - mu * r) * np.sqrt(1.0 - z * z)
    for price, threshold in zip(caps, tau, strict=True):
        value -= r * price * (z >= threshold)
    return value.min()


def random_case(rng):
    caps = rng.integers(0, 4)
    tau = np.sort(rng.uniform(0.05, 1.0, caps))
    prices = rng.exponential(1.0, caps) * (rng.random(caps) < 0.8)
    return (
        tau,
        prices,
        rng.exponential(3.0),
        rng.exponential(1.0) * (rng.random() < 0.7),
        rng.exponential(1.0),
    )


def test_psi_is_the_minimum_of_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(60):
        tau, prices, zero, mu, kappa = random_case(rng)
        length = np.hypot(1.0, kappa)
        sine, cosine = 1.0 / length, kappa / length
        r = np.concatenate([rng.lognormal(0.0, 2.0, 6), [0.0, sine / zero]])
        if mu > 0.0:
            r = np.append(r, cosine / mu)
        arguments = (np.array([v]) for v in (sine, cosine, zero))
        found = dual._psi(r[None], *arguments, prices[None], np.array([mu]), tau)[0]
        for at, value in zip(r, found, strict=True):
            brute = psi_by_grid(at, sine, cosine, zero, prices, mu, tau)
            assert value <= brute + 1e-12
            assert value == pytest.approx(brute, abs=1e-6 * (1.0 + at))


def test_where_nothing_pulls_all_caps_are_earned():
    """At r = sin θ/λ_0 = cos θ/μ both slopes vanish: every z_u is stationary, and 1 earns all prices."""
    one = np.ones(1)
    value = dual._psi(np.array([[1.0]]), one, one, one, np.array([[0.3, 0.2]]), one, np.array([0.5, 0.9]))
    assert value[0, 0] == -0.5


@pytest.mark.parametrize("d", [1e-3, 0.05, 0.5, 1.0, 2.0, 5.0, 8.2])
def test_moments_are_exact(d):
    """E 1 = 1 and E r = 1, to the errors that are allowed for."""
    rule = rule_for(d)
    assert rule.weights.min() >= 0.0
    assert rule.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (rule.weights * rule.r).sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("d", [1e-3, 0.3, 1.0, 8.0])
def test_what_rounding_of_the_weights_can_do(d):
    """Against 40 digits, for every ψ with slope ≤ 1: far below the slack, although single weights may be wrong by half.

    What a cell's upper end has too much its lower end has too little, so only sums of errors count, each times the
    rise of ψ to the next node; summed from both ends towards r = 1.
    """
    shift = np.array([d])
    t = nodes(shift, np.ones(1), multipliers(1.0), NOTHING)
    rule = quadrature(shift, t)
    with mpmath.workdps(40):
        at = [mpmath.mpf(x) for x in t[0]]
        r = [mpmath.exp(-mpmath.mpf(d) * x - mpmath.mpf(d) ** 2 / 2) for x in at]
        phi, shifted = [mpmath.ncdf(x) for x in at], [mpmath.ncdf(x + mpmath.mpf(d)) for x in at]
        exact = [mpmath.mpf(0)] * len(r)
        for i in np.flatnonzero(np.diff(t[0])):
            upper = (shifted[i] - shifted[i + 1] - r[i] * (phi[i] - phi[i + 1])) / (r[i + 1] - r[i])
            exact[i] += phi[i] - phi[i + 1] - upper
            exact[i + 1] += upper
        errors = np.array([float(mpmath.mpf(w) - x) for w, x in zip(rule.weights[0], exact, strict=True)])
    rise, one = np.diff(rule.r[0]), int(np.searchsorted(rule.r[0], 1.0))
    below = np.abs(np.cumsum(errors)[:-1] * rise)[:one].sum()
    above = np.abs(np.cumsum(errors[::-1])[::-1][1:] * rise)[one:].sum()
    assert below + above + abs(errors.sum()) < 0.1 * dual._SLACK


def integral(d, kappa, found, about):
    """λ_0 c + Σ λ_k p_k − μρ + E ψ by a fine sum over t, in units where sin θ = 1."""
    t = np.linspace(-9.0 - d, 9.0, 400_001)
    r = np.exp(-d * t - 0.5 * d * d)
    one, at = np.ones(1), np.array([kappa])
    psi = dual._psi(r[None], one, at, found.zero, found.caps, found.mu, about.tau)[0]
    density = np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    constants = found.zero * about.c + found.caps @ about.p - found.mu * about.rho
    return float(constants[0] + np.trapezoid(psi * density, t))


def test_the_verified_value_is_below_the_exact_one_and_close():
    rng = np.random.default_rng(1)
    for _ in range(25):
        tau, prices, zero, mu, kappa = random_case(rng)
        d = rng.choice([0.01, 0.2, 1.0, 2.5])
        about = dual.Known(rng.uniform(0.0, 1.0), tau, np.sort(rng.uniform(0.1, 0.999, len(tau)))[::-1], 0.1)
        found = multipliers(zero, prices, mu)
        value = verified_value(rule_for(d, kappa, about, found), np.array([kappa]), found, about)[0]
        exact = integral(d, kappa, found, about)
        assert value <= exact + 1e-9
        assert value == pytest.approx(exact, abs=3e-5 * (1.0 + float(found.total[0])))


@pytest.mark.parametrize("d", [0.1, 0.5, 1.0, 1.5])
def test_chords_lose_at_most_a_hundred_thousandth(d):
    """What the module says about its 600 cells, at the multipliers that a bound would use."""
    about = known(0.97)
    kappa, _, found = search(np.array([d]), about)
    value = verified_value(rule_for(d, kappa[0], about, found), kappa, found, about)[0]
    assert value == pytest.approx(integral(d, kappa[0], found, about), abs=1e-5 * np.hypot(1.0, kappa[0]))


def test_wrong_multipliers_certify_nothing_wrong():
    """NaN and infinities do not become positive."""
    about = known(0.97)
    for zero in (np.nan, np.inf):
        value = verified_value(rule_for(1.0), np.ones(1), multipliers(zero), about)
        assert not value[0] > 0.0


def test_a_negative_multiplier_is_none():
    """Below 0 it would claim the opposite of what is known."""
    about, kappa = known(0.97, [(0.9, 0.99)], 0.1), np.ones(1)
    wrong = Multipliers(np.array([-0.3]), np.array([[-2.0]]), np.array([-5.0]))
    none = Multipliers(np.zeros(1), np.zeros((1, 1)), np.zeros(1))
    rule = rule_for(1.0)
    assert verified_value(rule, kappa, wrong, about) == verified_value(rule, kappa, none, about)


def test_what_says_nothing_is_left_out():
    about = known(0.9, [(0.5, 0.7), (0.3, 0.6), (0.6, 0.0), (0.8, 0.7), (1.0, 0.1)], perp=0.95)
    # The threshold .8 has the share of .5 and .3; a share 0 is none; √(1 − .8²) = .6 < ρ.
    np.testing.assert_allclose(about.tau, [0.8, 1.0])
    np.testing.assert_allclose(about.p, [0.7, 0.1])
    assert about.rho == 1.0
    assert known(0.9, perp=0.5).rho == 0.5
    assert known(0.3, perp=0.3).rho == 0.3
    assert known(0.5, [(0.5, 1.0)]).p[0] < 1.0


def linear_programme(d, sine, cosine, about, cells=110, angles=97):
    """The smallest E'[sin θ z_u − cos θ z_w] of encoders that are constant on cells (they may randomise).

    It is never below the true minimum. Variables: the probability of each angle in each cell. Constraints at x:
    the constants.
    """
    edges = np.unique(np.concatenate([np.linspace(-d - 6.0, 6.0, cells), about.quantiles - d]))
    there = np.diff(ndtr(edges), prepend=0.0, append=1.0)
    here = np.diff(ndtr(edges + d), prepend=0.0, append=1.0)
    around = np.concatenate(
        [np.linspace(0.0, 2.0 * np.pi, angles), np.arccos(about.tau), -np.arccos(about.tau)]
    )
    z = np.concatenate([np.cos(around[:angles]), about.tau, about.tau])
    w = np.sin(around)
    constraints = [-np.outer(here, z).ravel(), np.outer(here, w).ravel()]
    constraints += [-np.outer(here, z >= tau).ravel() for tau in about.tau]
    limits = [-about.c, about.rho, *(-about.p)]
    found = linprog(
        np.outer(there, sine * z - cosine * w).ravel(),
        A_ub=np.array(constraints),
        b_ub=limits,
        A_eq=scipy.sparse.kron(scipy.sparse.eye(len(there)), np.ones((1, len(z)))),
        b_eq=np.ones(len(there)),
        method="highs",
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize(
    ("d", "mean", "caps", "perp"),
    [
        (1.0, 0.97, [], None),
        (0.5, 0.97, [], 0.06),
        (1.5, 0.96, [(0.85, 0.99), (0.9, 0.97), (0.94, 0.5)], None),
        # Here the worst encoder keeps the second cap on an interval, not on a half-line.
        (0.2, 0.91, [(0.6, 0.85), (0.9, 0.5)], 0.08),
    ],
)
def test_joint_is_what_a_linear_programme_allows(d, mean, caps, perp):
    """At the certified angle no encoder of the programme breaks the claim; slightly beyond, one does."""
    about = known(mean, caps, perp)
    bound = cosine_lower_bound(d, mean=mean, caps=caps, perp=perp)
    assert linear_programme(d, np.sqrt(1.0 - bound**2), bound, about) >= 0.0
    beyond = bound + 0.005
    assert linear_programme(d, np.sqrt(1.0 - beyond**2), beyond, about) < 0.0


def test_a_single_region_needs_no_caps_and_the_last_quantile_is_finite():
    assert np.isfinite(ndtri(known(0.9, [(0.5, 1.0)]).p)).all()
    assert known(0.9).quantiles.shape == (0,)
