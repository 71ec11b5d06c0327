"""From samples to constants: α is spent once, thresholds come from the pilot alone, η is taken off."""

from __future__ import annotations

import numpy as np
import pytest

from fsfast.bounds import mean_lower_bound, proportion_lower_bound
from fsfast.certificates.evidence import SCORE_UNIT, Budget, choose_thresholds, constants


@pytest.mark.parametrize("caps", [0, 1, 6])
@pytest.mark.parametrize("stopped", [False, True])
def test_the_budget_adds_up_to_alpha(caps, stopped):
    budget = Budget.of(0.01, caps, stopped)
    assert budget.mean + caps * budget.cap + budget.perpendicular == pytest.approx(0.01)
    assert budget.mean > 0
    assert (budget.perpendicular == 0) is stopped


def test_thresholds_are_multiples_that_fall_from_the_median():
    pilot = np.random.default_rng(0).beta(90, 3, 64)
    thresholds = choose_thresholds(pilot)
    assert len(thresholds) == 6
    assert list(thresholds) == sorted(thresholds, reverse=True)
    assert all(t % SCORE_UNIT == 0 for t in thresholds)
    assert thresholds[0] <= np.median(pilot) < thresholds[0] + SCORE_UNIT
    assert thresholds[-1] < pilot.min()


def test_thresholds_stay_above_one_half():
    """A score of ½ is an inner product of 0: a cap there says nothing about a cosine."""
    assert choose_thresholds(np.full(64, 0.4)) == ()
    few = choose_thresholds(np.linspace(0.3, 0.8, 64))
    assert few
    assert min(few) > 0.5


def test_constant_scores_need_no_spread():
    thresholds = choose_thresholds(np.full(64, 0.9))
    assert 1 <= len(thresholds) <= 6
    assert max(thresholds) <= 0.9


def test_constants_are_the_bounds_less_eta():
    scores = np.floor(np.random.default_rng(1).beta(50, 2, 500) / SCORE_UNIT) * SCORE_UNIT
    thresholds, eta = (0.95, 0.9), 1e-3
    budget = Budget.of(0.01, 2, stopped=False)
    known = constants(scores, thresholds, 0.05, budget, eta)
    assert known.mean == pytest.approx(mean_lower_bound(scores, budget.mean) - eta, abs=1e-12)
    for (tau, share), threshold in zip(known.caps, thresholds, strict=True):
        assert tau == 2 * threshold - 1
        wanted = proportion_lower_bound(int((scores >= threshold).sum()), 500, budget.cap) - eta
        assert share == pytest.approx(wanted, abs=1e-12)
    assert 0.05 < known.perp < 0.5
    assert known.perp > constants(scores, thresholds, 0.05, budget, 0.0).perp + 1.9 * eta


def test_sampling_that_may_stop_uses_bounds_that_hold_always():
    """Clopper and Pearson's bound is larger, but holds only for an n that was fixed beforehand."""
    scores = np.full(200, 0.95)
    budget = Budget.of(0.01, 1, stopped=True)
    known = constants(scores, (0.9,), None, budget, 0.0)
    assert known.perp is None
    assert known.caps[0][1] == pytest.approx(mean_lower_bound(np.ones(200), budget.cap))
    assert known.caps[0][1] < proportion_lower_bound(200, 200, budget.cap)


def test_a_poor_mean_says_nothing_about_the_length_across():
    budget = Budget.of(0.01, 0, stopped=False)
    assert constants(np.full(50, 0.4), (), 0.1, budget, 0.0).perp is None


def test_a_bound_below_eta_is_zero():
    known = constants(np.full(10, 0.6), (0.55,), 0.1, Budget.of(0.01, 1, stopped=False), 0.99)
    assert known.mean == 0.0
    assert known.caps[0][1] == 0.0
