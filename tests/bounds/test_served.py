"""The mean of finitely many samples at another image: geometry, probability, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from fsfast.bounds.served import _most_leaving, served_cosine_lower_bound


def bound_by_hand(d, n0, tau, p, confidence, eta=0.0):
    leaving = 1.0 - (float(ndtr(ndtri(p) - d)) - eta)
    j = int(binom.ppf(confidence, n0, leaving))
    kappa = j / (n0 - j) if j < n0 else math.inf
    return math.cos(math.acos(tau) + math.asin(kappa)) if kappa < tau else None


@pytest.mark.parametrize("n0", [4, 16, 100])
@pytest.mark.parametrize("d", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("confidence", [0.5, 0.999])
def test_it_is_the_formula(n0, d, confidence):
    expected = bound_by_hand(d, n0, 0.8, 0.995, confidence, 1e-6)
    bound = served_cosine_lower_bound(d, n0, caps=[(0.8, 0.995)], confidence=confidence, total_variation=1e-6)
    if expected is None:
        assert bound is None
    else:
        assert expected - 1e-11 < bound < expected


def test_the_distance_of_the_noise_is_taken_off():
    """η = .05 lets as many samples leave as a p' that is smaller by .05."""
    bounds = [
        served_cosine_lower_bound(0.0, 100, caps=[(0.8, p)], confidence=0.9, total_variation=eta)
        for p, eta in ((0.98, 0.05), (0.93, 0.0), (0.98, 0.0))
    ]
    assert bounds[0] == bounds[1] < bounds[2]


def test_the_best_cap_counts():
    """A high cap for many samples, a low one where some leave."""
    caps = [(0.95, 0.9), (0.7, 0.9999)]
    each = [served_cosine_lower_bound(0.5, 8, caps=[cap], confidence=0.99) for cap in caps]
    assert each[0] is None
    assert served_cosine_lower_bound(0.5, 8, caps=caps, confidence=0.99) == each[1]
    both = [served_cosine_lower_bound(0.0, 400, caps=c, confidence=0.99) for c in (caps, caps[:1], caps[1:])]
    assert both[0] == max(both[1:])


def test_no_mean_of_samples_that_mostly_lie_in_the_cap_leaves_the_cone():
    """n0 − j vectors of the cap and j any: random ones stay in the cone, and a worst case lies on its edge."""
    rng = np.random.default_rng(0)
    tau, n0, j = 0.8, 10, 2
    angle = math.acos(tau) + math.asin(j / (n0 - j))
    for _ in range(300):
        inside = rng.normal(size=(n0 - j, 3))
        inside[:, 0] = rng.uniform(tau, 1.0, n0 - j)
        side = np.sqrt(1.0 - inside[:, 0] ** 2) * rng.random(n0 - j) ** 0.1
        inside[:, 1:] *= (side / np.linalg.norm(inside[:, 1:], axis=1))[:, None]
        outside = rng.normal(size=(j, 3))
        outside /= np.linalg.norm(outside, axis=1, keepdims=True)
        mean = np.concatenate([inside, outside]).sum(0)
        assert mean[0] / np.linalg.norm(mean) >= math.cos(angle) - 1e-12
    edge = (n0 - j) * np.array([tau, math.sqrt(1.0 - tau**2)])
    away = edge + j * np.array([-math.sin(angle), math.cos(angle)])
    assert away[0] / np.linalg.norm(away) == pytest.approx(math.cos(angle), abs=1e-12)


@pytest.mark.parametrize("leaving", [0.0, 1e-6, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("n0", [1, 16, 1000])
def test_the_number_that_leaves(n0, leaving):
    """The smallest j whose tail is at most the error."""
    for error in (0.5, 1e-3, 1e-9):
        j = _most_leaving(n0, leaving, error)
        assert binom.sf(j, n0, leaving) <= error
        if j > 0:
            assert binom.sf(j - 1, n0, leaving) > error * (1.0 - 1e-6)


def test_it_falls_with_the_radius_and_the_confidence_and_rises_with_n0():
    caps = [(0.9, 0.99), (0.8, 0.998), (0.6, 0.9995)]

    def bound(d=0.5, n0=64, confidence=0.99):
        return served_cosine_lower_bound(d, n0, caps=caps, confidence=confidence) or 0.0

    assert bound(d=0.0) > bound() > bound(d=1.5) > 0.0
    assert bound(confidence=0.9) >= bound() >= bound(confidence=1.0 - 1e-9)
    assert bound(n0=4096) > bound() > bound(n0=2)
    assert served_cosine_lower_bound(9.0, 64, caps=caps, confidence=0.9) is None
    assert served_cosine_lower_bound(0.5, 64, caps=[], confidence=0.9) is None
    assert served_cosine_lower_bound(0.5, 64, caps=[(0.9, 0.0)], confidence=0.9) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": -1.0}, "wanted d.*-1"),
        ({"n0": 0}, "n0 ≥ 1.*got 0"),
        ({"confidence": 1.0}, "confidence in.*1.0"),
        ({"confidence": math.nan}, "confidence in.*nan"),
        ({"caps": [(0.9, 1.1)]}, "caps.*1.1"),
        ({"total_variation": -1e-9}, "total variation.*-1e-09"),
    ],
)
def test_wrong_use_is_refused(arguments, message):
    usual = {"d": 0.5, "n0": 4, "caps": [(0.9, 0.99)], "confidence": 0.9}
    with pytest.raises(ValueError, match=message):
        served_cosine_lower_bound(**{**usual, **arguments})
