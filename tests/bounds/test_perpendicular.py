"""The norm across the anchor: against simulation, against the vector inequality that it replaces, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks.certified import coverage
from fsfast.bounds import perpendicular_upper_bound
from fsfast.bounds.perpendicular import _TILTS, _hoeffding_exponent, _mixture_exponent


@pytest.mark.parametrize("n", [20, 200])
def test_coverage_at_a_fixed_n_and_at_the_luckiest_look(n):
    rows = list(coverage.perpendicular(2000, [n], [0.2, 0.05]))
    assert {row.stopping for row in rows} == {"fixed n", "luckiest look"}
    for row in rows:
        assert row.share <= row.limit, row


def test_the_coverage_test_notices_a_bound_without_confidence():
    c, norm, values, chances = coverage.ACROSS["signs"]
    y = np.random.default_rng(0).choice(values, (2000, 200), p=chances)
    assert (np.abs(y.mean(1)) < norm).sum() > coverage.limit(2000, 0.2)
    # The bound is not far from it, either: c alone says √(1 − c²).
    assert perpendicular_upper_bound(norm, c, 200, 0.2) < 0.6 * math.sqrt(1.0 - c * c)


def test_features_in_many_dimensions():
    """Isotropic noise in 50 dimensions across the anchor: the measured norm is noise, the truth is 0.05."""
    rng = np.random.default_rng(1)
    c, n, alpha = 0.95, 300, 0.05
    rest = math.sqrt(1.0 - c * c - 0.05**2)
    for anytime in (False, True):
        for _ in range(20):
            noise = rng.normal(size=(n, 50))
            noise[:, 0] = 0.0
            noise *= rest / np.linalg.norm(noise, axis=1, keepdims=True)
            norm = float(np.linalg.norm(noise.mean(0) + 0.05 * np.eye(50)[0]))
            assert 0.05 < perpendicular_upper_bound(norm, c, n, alpha, anytime=anytime) < norm + 0.07


@pytest.mark.parametrize("c", [0.0, 0.5, 0.94, 0.999])
@pytest.mark.parametrize("n", [10, 1000, 100_000])
@pytest.mark.parametrize("norm", [0.0, 0.01, 0.2])
def test_it_is_below_the_bernstein_inequality_for_vectors(c, n, norm):
    """‖P_⊥ m̂‖ + √(2(1 − c²)ℓ/n) + 4ℓ/(3n) with ℓ = ln(2/α) (Pinelis and Sakhanenko, 1985)."""
    alpha = 1e-3
    log = math.log(2.0 / alpha)
    vector = norm + math.sqrt(2.0 * (1.0 - c * c) * log / n) + 4.0 * log / (3.0 * n)
    bound = perpendicular_upper_bound(norm, c, n, alpha)
    assert bound <= min(vector, math.sqrt(1.0 - c * c)) + 1e-8
    assert bound >= min(norm, math.sqrt(1.0 - c * c))
    # Stopping at any time costs something.
    assert perpendicular_upper_bound(norm, c, n, alpha, anytime=True) >= bound - 1e-9


@settings(max_examples=100)
@given(st.floats(0.0, 0.5), st.floats(-0.5, 0.999), st.integers(1, 10_000), st.booleans())
def test_monotone_in_the_norm_c_n_and_alpha(norm, c, n, anytime):
    def bound(norm=norm, c=c, n=n, alpha=0.01):
        return perpendicular_upper_bound(norm, c, n, alpha, anytime=anytime)

    assert 0.0 <= bound() <= 1.0
    assert bound(norm=norm + 0.1) >= bound() - 1e-9
    assert bound(c=min(1.0, c + 0.0005)) <= bound() + 1e-9
    assert bound(n=n + 1) <= bound() + 1e-9
    assert bound(alpha=0.02) <= bound() + 1e-9


def test_hoeffdings_exponent_is_attained_by_two_points_in_the_limit():
    """A sum of n two-point variables reaches n·distance with probability exp(−exponent), up to a power of n."""
    n, width, variance, distance = 2000, 1.2, 0.1, 0.06
    q_zero = variance / (width**2 + variance)
    # D = width with probability q₀, −variance/width otherwise: mean 0 and that variance.
    hits = math.ceil(n * (variance + width * distance) / (width**2 + variance))
    tail = binom.logsf(hits - 1, n, q_zero)
    exponent = _hoeffding_exponent(distance, variance, width, n)
    assert exponent <= -tail <= exponent + 6.0


def test_the_mixture_is_the_mean_of_supermartingales():
    """For D ≤ b with mean 0: E exp(ηD/b − (e^η − 1 − η)v/b²) ≤ 1, here for the extreme two points."""
    width, variance = 1.3, 0.2
    q_zero = variance / (width**2 + variance)
    for eta, rest in _TILTS:
        values = np.array([width, -variance / width])
        grown = np.exp(eta * values / width - rest * variance / width**2)
        assert grown @ [q_zero, 1.0 - q_zero] <= 1.0 + 1e-12
    one = math.log(np.mean([math.exp(eta * 0.5 - rest * 0.3 / 1.69) for eta, rest in _TILTS]))
    assert _mixture_exponent(0.65, 0.3, 1.3, 1) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("c", [0.3, 0.94])
@pytest.mark.parametrize("norm", [0.0, 0.2])
def test_for_many_samples_it_is_the_gaussian_tail_bound(c, norm):
    """√(2vℓ/n) with all the variance that c and the norm leave, v = 1 − c² − p²."""
    n, alpha = 10_000_000, 1e-3
    variance = 1.0 - c * c - norm * norm
    width = math.sqrt(2.0 * variance * math.log(1.0 / alpha) / n)
    assert perpendicular_upper_bound(norm, c, n, alpha) - norm == pytest.approx(width, rel=0.01)
    # Holding for all n costs a tenth to a third of the width.
    assert 1.1 * width < perpendicular_upper_bound(norm, c, n, alpha, anytime=True) - norm < 1.4 * width


def test_without_information_the_mean_decides():
    assert perpendicular_upper_bound(1.0, 0.6, 10, 0.01) == pytest.approx(0.8, abs=1e-8)
    assert perpendicular_upper_bound(0.0, -0.4, 1, 1e-9) == pytest.approx(1.0)
    assert perpendicular_upper_bound(0.0, 1.0, 1, 0.01) == pytest.approx(0.0, abs=1e-8)
    # The ideal noise may move the mean feature by 2η.
    apart = perpendicular_upper_bound(0.1, 0.9, 1000, 0.01, total_variation=1e-3)
    assert apart == pytest.approx(perpendicular_upper_bound(0.1, 0.9, 1000, 0.01) + 2e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 0.9, 10, 0.1), "norm_perp.*-0.1"),
        ((math.nan, 0.9, 10, 0.1), "norm_perp.*nan"),
        ((0.1, 1.1, 10, 0.1), "c_lower.*1.1"),
        ((0.1, 0.9, 0, 0.1), "n ≥ 1 samples, got 0"),
        ((0.1, 0.9, 10, 1.0), "alpha.*got 1.0"),
    ],
)
def test_wrong_use_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        perpendicular_upper_bound(*arguments)
