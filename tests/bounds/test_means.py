"""Bounds of the mean: exact against rational arithmetic, coverage by simulation, anytime validity."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from benchmarks.certified import coverage
from benchmarks.certified.coverage import beta
from fsfast.bounds.means import _log_wealth, _sum_of_logs, mean_lower_bound

METHODS = ("mixture", "product", "hoeffding")
SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=24)


def wealth(scores, m):
    """W(m) of docs/certificates.md §3, exactly: the specification, independent of the module's constants."""
    total = Fraction(0)
    for k in range(12):
        bet = Fraction(1) if k == 0 else Fraction(0.7**k)
        product = Fraction(1, 2) if k == 0 else Fraction(1, 22)
        for x in scores:
            product *= 1 + bet * (Fraction(x) / m - 1)
        total += product
    return total


@settings(max_examples=40)
@given(SCORES, st.sampled_from([0.5, 0.05, 1e-3, 1e-9]))
@example([0.0], 0.5)  # no score is positive: nothing can be said
@example([1.0], 1e-3)  # one sample, the luckiest
@example([0.0, 1.0, 1.0, 1.0], 0.05)  # a zero ends the bet c = 1
@example([1e-300, 1.0, 1.0], 0.05)  # logarithms of very different size
@example([1.0] * 24, 1e-9)  # the ceiling
def test_mixture_is_the_exact_bound_rounded_down(scores, alpha):
    bound = mean_lower_bound(np.array(scores), alpha)
    assert 0.0 <= bound < 1.0
    if bound > 0.0:
        # W does not increase in m: W(bound) ≥ 1/α means bound ≤ S_L.
        assert wealth(scores, Fraction(bound)) >= 1 / Fraction(alpha)
    above = Fraction(bound) + Fraction(1, 10**9)
    assert wealth(scores, above) < 1 / Fraction(alpha)


@settings(max_examples=60)
@given(SCORES, st.sampled_from([0.5, 0.05, 1e-3]))
@example([1.0] * 24, 1e-3)
@example([5e-324] * 3, 0.5)  # a subnormal result would be rounded up
def test_product_is_the_exact_bound_rounded_down(scores, alpha):
    bound = Fraction(mean_lower_bound(np.array(scores), alpha, "product"))
    exact = Fraction(alpha)
    for x in scores:
        exact *= Fraction(x)
    n = len(scores)
    assert bound**n <= exact
    # Below 2^-100 the bound is 0.
    assert (bound * (1 + Fraction(1, 10**9)) + Fraction(1, 2**100)) ** n > exact


def digits(fraction):
    """A rational number to the 28 digits of decimal's default context."""
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


@pytest.mark.parametrize("n", [1, 8, 63, 1000])
def test_hoeffding_is_the_formula_rounded_down(n):
    # α near 1, so that the bound is positive even for n = 1.
    alpha = 0.9
    for scores in np.random.default_rng(7).uniform(0.5, 1.0, (30, n)):
        mean = digits(sum(Fraction(x) for x in scores) / n)
        exact = mean - (-Decimal(alpha).ln() / (2 * n)).sqrt()
        bound = Decimal(mean_lower_bound(scores, alpha, "hoeffding"))
        assert exact - Decimal("1e-12") < bound < exact


@pytest.mark.parametrize("n", [1, 7, 8, 9, 40])
def test_log_wealth_is_below_the_exact_one(n):
    rng = np.random.default_rng(8)
    scores = beta(rng, 0.9, 0.1, (20, n))
    scores[0, 0] = 0.0
    m = rng.uniform(0.2, 0.95, 20)
    computed, _ = _log_wealth(scores, m, *_sum_of_logs(scores))
    for row, at, lower in zip(scores, m, computed, strict=True):
        exact = digits(wealth(row, Fraction(at))).ln()
        assert exact - Decimal("1e-10") < Decimal(lower) < exact


def test_a_few_tiny_scores_do_not_underflow():
    # Multiplied eight at a time, these would be 1e-800.
    scores = np.ones(800)
    scores[::100] = 1e-100
    expected = (1e-3) ** (1 / 800) * 10.0**-1
    assert mean_lower_bound(scores, 1e-3, "product") == pytest.approx(expected, rel=1e-9)
    assert mean_lower_bound(scores, 1e-3) > 0.95


@pytest.mark.parametrize(
    ("mean", "sd", "q"),
    [
        (0.97, 0.01, {"hoeffding": 1.35, "product": 1.79, "mixture": 1.78}),
        (0.9925, 0.004, {"hoeffding": 1.50, "product": 2.19, "mixture": 2.17}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_reference_values(mean, sd, q, method):
    scores = beta(np.random.default_rng(1), mean, sd, 1000)
    assert ndtri(mean_lower_bound(scores, 1e-3, method)) == pytest.approx(q[method], abs=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 63, 1000, 100_000])
def test_ceiling(method, n):
    bound = mean_lower_bound(np.ones(n), 1e-3, method)
    ceiling = 1e-3 ** (1.0 / n)
    assert bound <= ceiling
    if method == "product":
        assert bound == pytest.approx(ceiling, rel=1e-9)


@settings(max_examples=60)
@given(
    SCORES,
    st.integers(0, 23),
    st.floats(0.0, 1.0),
    st.sampled_from([0.5, 0.05, 1e-3]),
    st.sampled_from(METHODS),
)
def test_monotone_in_every_score(scores, index, raise_to, alpha, method):
    higher = list(scores)
    index %= len(scores)
    higher[index] = max(scores[index], raise_to)
    low = mean_lower_bound(np.array(scores), alpha, method)
    high = mean_lower_bound(np.array(higher), alpha, method)
    # Each is within 1e-9 below its exact value.
    assert high >= low - 1e-9


@pytest.mark.parametrize("n", [1, 20, 150])
def test_coverage_at_a_fixed_n_and_at_the_luckiest_look(n):
    rows = list(coverage.means(1000, [n], [0.05]))
    assert len(rows) == 5 * len(coverage.DISTRIBUTIONS)
    for row in rows:
        assert row.share <= row.limit, row


def test_the_coverage_test_notices_a_bound_without_confidence():
    scores, mean = coverage.draw("beta", np.random.default_rng(2), (2000, 150))
    assert (scores.mean(axis=1) > mean).sum() > coverage.limit(2000, 0.05)


@pytest.mark.parametrize("method", METHODS)
def test_leading_axes_are_independent(method):
    scores = beta(np.random.default_rng(4), 0.9, 0.1, (3, 5, 63))
    scores[1, 2] = 0.0
    bounds = mean_lower_bound(scores, 0.01, method)
    assert bounds.shape == (3, 5)
    assert bounds.dtype == np.float64
    for i in range(3):
        for j in range(5):
            alone = mean_lower_bound(scores[i, j], 0.01, method)
            assert isinstance(alone, float)
            # The order of summation may differ by layout; the exact value is the same.
            assert bounds[i, j] == pytest.approx(alone, abs=2e-9)
    strided = mean_lower_bound(np.repeat(scores, 2, axis=-1)[..., ::2], 0.01, method)
    np.testing.assert_allclose(strided, bounds, atol=2e-9)
    assert mean_lower_bound(np.ones((0, 4)), 0.01, method).shape == (0,)


def test_large_inputs_stay_accurate():
    scores = beta(np.random.default_rng(5), 0.97, 0.01, 100_000)
    mixture = mean_lower_bound(scores, 1e-3)
    assert mean_lower_bound(scores, 1e-3, "product") - 1e-4 < mixture < scores.mean()
    # More rows than are worked on at a time.
    blocks = mean_lower_bound(np.tile(scores[:1000], (200, 1)), 1e-3)
    assert np.ptp(blocks) < 2e-9


@pytest.mark.parametrize("method", METHODS)
def test_integers_and_booleans_are_scores(method):
    hits = np.random.default_rng(6).random(500) < 0.9
    expected = mean_lower_bound(hits.astype(float), 0.01, method)
    assert mean_lower_bound(hits, 0.01, method) == expected
    assert mean_lower_bound(hits.astype(np.int8), 0.01, method) == expected
    # One score of 0 is the end of the product.
    assert expected == 0.0 if method == "product" else 0.8 < expected < 0.9


@pytest.mark.parametrize(
    ("scores", "alpha", "method", "message"),
    [
        ([0.5, 1.0000001], 0.1, "mixture", "wanted scores in .*1 outside.*1.0000001"),
        ([-1e-9], 0.1, "mixture", "outside or NaN"),
        ([0.5, np.nan], 0.1, "product", "1 outside or NaN"),
        ([], 0.1, "mixture", "n ≥ 1.*shape"),
        (0.5, 0.1, "mixture", "n ≥ 1.*shape"),
        ([0.5 + 0j], 0.1, "mixture", "real scores.*complex"),
        (["a"], 0.1, "mixture", "real scores"),
        ([0.5], 0.0, "mixture", "alpha.*got 0.0"),
        ([0.5], 1.0, "mixture", "alpha.*got 1.0"),
        ([0.5], np.nan, "mixture", "alpha.*got nan"),
        ([0.5], 0.1, "bernstein", "mixture, product, hoeffding; got 'bernstein'"),
    ],
)
def test_wrong_use_is_refused(scores, alpha, method, message):
    with pytest.raises(ValueError, match=message):
        mean_lower_bound(np.array(scores), alpha, method)
