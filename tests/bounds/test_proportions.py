"""Clopper–Pearson: against the exact binomial tail, coverage, edges."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
from scipy.special import betainc

from benchmarks.certified import coverage
from fsfast.bounds import proportion_lower_bound, proportions


def exact_tail(s, n, p):
    """P(Bin(n, p) ≥ s) for a rational p, exactly."""
    p = Fraction(p)
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(s, n + 1))


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 1e-9])
@pytest.mark.parametrize(("s", "n"), [(1, 1), (1, 9), (5, 9), (9, 9), (60, 64), (63, 64), (64, 64), (1, 200)])
def test_the_tail_is_at_most_alpha_and_just_so(s, n, alpha):
    p = proportion_lower_bound(s, n, alpha)
    assert isinstance(p, float)
    assert exact_tail(s, n, p) <= Fraction(alpha)
    assert exact_tail(s, n, min(p * (1.0 + 1e-6), 1.0)) > Fraction(alpha)


@pytest.mark.parametrize(("s", "n"), [(5, 9), (60, 64), (1, 200)])
def test_a_wrong_proposal_is_lowered_until_the_tail_is_right(s, n, monkeypatch):
    """The quantile function is not trusted."""
    right = proportion_lower_bound(s, n, 0.01)
    monkeypatch.setattr(proportions, "betaincinv", lambda *arguments: 1.001 * right)
    lowered = proportion_lower_bound(s, n, 0.01)
    assert exact_tail(s, n, lowered) <= Fraction(0.01)
    assert lowered > 0.99 * right
    monkeypatch.setattr(proportions, "betaincinv", lambda *arguments: np.nan)
    assert proportion_lower_bound(s, n, 0.01) == 0.0


@pytest.mark.parametrize("n", [10_000, 1_000_000])
@pytest.mark.parametrize("failures", [0, 3, 100])
def test_large_counts_to_fifty_digits(n, failures):
    """The tail of the failures, a short sum; `betainc` is trusted to 1e-7 and is right to 1e-10."""
    alpha, s = 1e-4, n - failures
    p = proportion_lower_bound(s, n, alpha)

    def tail(p):
        q = 1 - mpmath.mpf(p)
        return mpmath.fsum(mpmath.binomial(n, k) * q**k * (1 - q) ** (n - k) for k in range(failures + 1))

    with mpmath.workdps(50):
        assert tail(p) <= alpha < tail(p * (1.0 + 1e-9))
        assert betainc(s, failures + 1, p) == pytest.approx(float(tail(p)), rel=1e-10)


def test_no_success_says_nothing_and_shapes_broadcast():
    p = proportion_lower_bound(np.array([[0, 5, 10]]), np.array([[10], [20]]), 0.01)
    assert p.shape == (2, 3)
    assert (p[:, 0] == 0.0).all()
    assert p[0, 2] == pytest.approx(0.01**0.1, rel=1e-6)
    assert p[0, 1] == proportion_lower_bound(5, 10, 0.01)
    assert (p[0, 1:] > p[1, 1:]).all()
    assert proportion_lower_bound(np.zeros((0,), dtype=int), 10, 0.01).shape == (0,)


def test_it_rises_with_successes_and_with_alpha():
    bounds = proportion_lower_bound(np.arange(101), 100, 0.01)
    assert (np.diff(bounds) > 0.0).all()
    assert proportion_lower_bound(90, 100, 0.05) > proportion_lower_bound(90, 100, 0.01)


@pytest.mark.parametrize("n", [20, 200])
def test_coverage_of_both_bounds(n):
    rows = list(coverage.proportions(4000, [n], [0.05]))
    assert {row.stopping for row in rows} == {"fixed n", "luckiest look"}
    for row in rows:
        assert row.share <= row.limit, row


@pytest.mark.parametrize(
    ("successes", "n", "alpha", "message"),
    [
        (0.5, 10, 0.1, "integers, got float64"),
        (5, 10.0, 0.1, "integers"),
        (5, 0, 0.1, "n ≥ 1 samples, got 0"),
        (11, 10, 0.1, "between 0 and n, got 11"),
        (-1, 10, 0.1, "between 0 and n, got -1"),
        (5, 10, 0.0, "alpha.*got 0.0"),
        (5, 10, float("nan"), "alpha.*nan"),
    ],
)
def test_wrong_use_is_refused(successes, n, alpha, message):
    with pytest.raises(ValueError, match=message):
        proportion_lower_bound(successes, n, alpha)
