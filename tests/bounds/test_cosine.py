"""`fcsb` and `paper`: values, rounding, monotonicity, the inverse; and what all methods refuse."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from fsfast.bounds.cosine import cosine_curve, cosine_lower_bound, inner_product_lower_bound, radius

# b with 20 digits, computed once with mpmath at 40 digits.
EXACT = [
    (0.97, 0.5, "0.83265757062056463023"),
    (0.97, 1.0, "0.62157046002558429141"),
    (0.999, 2.0, "0.7243891742033994004"),
    (0.75, 0.25, "0.32879132113150410905"),
    (0.9999999, 4.0, "0.76960329273489415146"),
]
# Φ⁻¹(S) − Φ⁻¹(.75), likewise.
EXACT_RADIUS = [(0.97, 1.2063038579551688041), (0.9999, 3.0445267352596266435)]


fcsb = partial(cosine_lower_bound, method="fcsb")
fcsb_radius = partial(radius, method="fcsb")


@pytest.mark.parametrize(("mean", "d", "exact"), EXACT)
def test_fcsb_is_theorem_1_rounded_down(mean, d, exact):
    bound = fcsb(d, mean=mean)
    assert float(exact) - 1.01e-12 < bound < float(exact)
    assert cosine_lower_bound(d, mean=mean, method="paper") == pytest.approx(float(exact), abs=1e-14)


@pytest.mark.parametrize("mean", [0.5 + 1e-9, 0.6, 0.97, 1.0 - 1e-9])
def test_at_distance_zero_the_bound_is_the_mean_inner_product(mean):
    assert fcsb(0.0, mean=mean) == pytest.approx(2.0 * mean - 1.0, abs=2e-12)
    assert fcsb(0.0, mean=mean) < 2.0 * mean - 1.0


@pytest.mark.parametrize(
    ("epsilon", "printed"), [(0.125, 0.828), (0.25, 0.623), (0.375, 0.313), (0.5, -0.06)]
)
def test_the_plug_in_formula_gives_the_paper_table(epsilon, printed):
    # The paper averages over images and prints S rounded to .970: agreement is to .04.
    assert cosine_lower_bound(epsilon / 0.25, mean=0.970, method="paper") == pytest.approx(printed, abs=0.04)


def test_a_bound_that_is_not_positive_is_no_certificate():
    # Where the paper prints −0.06.
    assert fcsb(2.0, mean=0.97) is None
    assert cosine_lower_bound(2.0, mean=0.97, method="paper") < 0.0
    for mean in (0.0, 0.3, 0.5):
        assert fcsb(0.0, mean=mean) is None
    assert cosine_lower_bound(0.0, mean=0.0, method="paper") == -1.0
    # Positive on paper, but not beyond rounding.
    assert fcsb(0.0, mean=0.5 + 1e-13) is None


def test_two_half_spaces_attain_the_bound():
    # f = +u where the first coordinate is below a, −u elsewhere: the worst case of Theorem 1.
    a, sigma, epsilon = 0.4, 0.25, 0.15
    mean = float(ndtr(a / sigma))
    attained = 2.0 * float(ndtr((a - epsilon) / sigma)) - 1.0
    assert fcsb(epsilon / sigma, mean=mean) == pytest.approx(attained, abs=2e-12)
    assert fcsb(epsilon / sigma, mean=mean) <= attained


@settings(max_examples=200)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_monotone_in_mean_and_distance(mean_a, mean_b, d_a, d_b):
    better = fcsb(min(d_a, d_b), mean=max(mean_a, mean_b))
    worse = fcsb(max(d_a, d_b), mean=min(mean_a, mean_b))
    assert (better or 0.0) >= (worse or 0.0) - 1e-14


@pytest.mark.parametrize(("mean", "exact"), EXACT_RADIUS)
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_radius_for_one_half_is_corollary_1(mean, exact, sigma):
    epsilon = fcsb_radius(0.5, sigma=sigma, mean=mean)
    assert epsilon <= sigma * exact
    assert epsilon == pytest.approx(sigma * exact, abs=1e-7)
    assert radius(0.5, sigma=sigma, mean=mean, method="paper") == pytest.approx(sigma * exact, rel=1e-13)


@settings(max_examples=300)
@given(
    st.floats(0.0, 1.0, exclude_min=True),
    st.floats(1e-3, 10.0),
    st.floats(0.0, 1.0),
    st.sampled_from(["fcsb", "paper"]),
)
@example(0.5, 0.25, 0.75, "fcsb")  # the target is reached only at radius 0, and rounding spoils it
@example(1.0, 0.25, 1.0, "fcsb")
@example(1.0 - 1e-13, 0.25, 1.0, "fcsb")  # closer to 1 than the rounding
@example(5e-324, 0.25, 0.6, "fcsb")
def test_radius_is_the_inverse_of_the_bound(target, sigma, mean, method):
    epsilon = radius(target, sigma=sigma, mean=mean, method=method)
    assert math.isfinite(epsilon)
    assert epsilon >= 0.0
    if epsilon > 0.0:
        assert cosine_lower_bound(epsilon / sigma, mean=mean, method=method) >= target
    # No larger radius reaches the target by more than rounding.
    beyond = cosine_lower_bound(epsilon / sigma + 1e-6, mean=mean, method=method)
    assert beyond is None or beyond <= target + 1e-12


def test_radius_is_zero_where_the_target_is_out_of_reach():
    assert fcsb_radius(0.5, sigma=0.25, mean=0.7) == 0.0
    assert fcsb_radius(1.0, sigma=0.25, mean=0.999) == 0.0
    assert fcsb_radius(0.5, sigma=0.25, mean=0.0) == 0.0


def test_a_score_of_one_gives_finite_numbers():
    # No finite sample supports S_L = 1; it is read as the largest float below.
    assert 0.9999 < fcsb(1.0, mean=1.0) < 1.0
    assert fcsb_radius(0.5, sigma=0.25, mean=1.0) == pytest.approx(0.25 * (8.2095 - 0.6745), abs=1e-3)
    assert fcsb(20.0, mean=1.0) is None


def test_radius_falls_with_the_target():
    radii = [fcsb_radius(t, sigma=0.25, mean=0.97) for t in np.linspace(0.01, 0.94, 40)]
    assert all(a > b for a, b in pairwise(radii))
    assert radii[0] == pytest.approx(0.25 * float(ndtri(0.97) - ndtri(0.505)), abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": -0.1, "mean": 0.9}, "wanted d.*-0.1"),
        ({"d": math.nan, "mean": 0.9}, "wanted d.*nan"),
        ({"d": math.inf, "mean": 0.9}, "wanted d.*inf"),
        ({"d": 1.0, "mean": 1.1}, "mean score.*1.1"),
        ({"d": 1.0, "mean": -0.1}, "mean score.*-0.1"),
        ({"d": 1.0, "mean": math.nan}, "mean score.*nan"),
        ({"d": 1.0, "mean": 0.9, "method": "best"}, "joint, sharp, cap, fcsb, paper; got 'best'"),
        ({"d": 1.0, "mean": 0.9, "caps": [(0.0, 0.9)]}, r"caps \(τ, p\).*\(0.0, 0.9\)"),
        ({"d": 1.0, "mean": 0.9, "caps": [(0.5, 0.9), (0.5, 1.1)]}, r"caps.*\(0.5, 1.1\)"),
        ({"d": 1.0, "mean": 0.9, "caps": [(0.5, math.nan)]}, "caps.*nan"),
        ({"d": 1.0, "mean": 0.9, "caps": [(0.5, 0.9, 1.0)]}, "caps"),
        ({"d": 1.0, "mean": 0.9, "perp": -0.1}, "perp.*-0.1"),
        ({"d": 1.0, "mean": 0.9, "perp": math.nan}, "perp.*nan"),
    ],
)
def test_wrong_use_of_the_bound_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cosine_lower_bound(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.0, "sigma": 0.25, "mean": 0.9}, "target.*0.0"),
        ({"target": 1.01, "sigma": 0.25, "mean": 0.9}, "target.*1.01"),
        ({"target": math.nan, "sigma": 0.25, "mean": 0.9}, "target.*nan"),
        ({"target": 0.5, "sigma": 0.0, "mean": 0.9}, "sigma.*0.0"),
        ({"target": 0.5, "sigma": math.inf, "mean": 0.9}, "sigma.*inf"),
        ({"target": 0.5, "sigma": 0.25, "mean": 2.0}, "mean score.*2.0"),
        ({"target": 0.5, "sigma": 0.25, "mean": 0.9, "method": "best"}, "got 'best'"),
    ],
)
def test_wrong_use_of_the_radius_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        radius(**arguments)


def test_wrong_radii_of_a_curve_are_refused():
    with pytest.raises(ValueError, match=r"shape \[R\], got shape \(1, 2\)"):
        cosine_curve(np.ones((1, 2)), mean=0.9)
    with pytest.raises(ValueError, match=r"wanted d.*-1"):
        cosine_curve(np.array([0.5, -1.0]), mean=0.9)
    with pytest.raises(ValueError, match=r"wanted d.*nan"):
        inner_product_lower_bound(math.nan, mean=0.9)
