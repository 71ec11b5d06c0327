"""Bounds that are fed in chunks: they equal the batch bound, never fall, and hold at the luckiest look."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.certified import coverage
from fsfast.bounds import SequentialMean, SequentialProportion, mean_lower_bound


@pytest.mark.parametrize("method", ["mixture", "product"])
@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_it_is_the_running_maximum_of_the_batch_bound(method, chunk):
    """300 scores in chunks, among them zeros, which end the bet c = 1."""
    scores, _ = coverage.draw("heavy tail", np.random.default_rng(0), (3, 300))
    scores[1, 40] = 0.0
    bound = SequentialMean(0.01, method, (3,))
    best = np.zeros(3)
    for first in range(0, 300, chunk):
        found = bound.update(scores[:, first : first + chunk])
        best = np.maximum(best, mean_lower_bound(scores[:, : first + chunk], 0.01, method))
        # Each is within 1e-9 below the exact bound.
        np.testing.assert_allclose(found, best, atol=1e-9)
    assert bound.n == 300
    np.testing.assert_array_equal(bound.bound, found)


def test_it_never_exceeds_the_largest_batch_bound_by_more_than_rounding_and_never_falls():
    rng = np.random.default_rng(1)
    bound, before = SequentialMean(0.01), 0.0
    for scores in (np.ones(50), np.zeros(5), rng.random(500)):
        after = bound.update(scores)
        assert isinstance(after, float)
        assert after >= before
        before = after
    # Five failures after fifty successes lowered the bound of that moment, not the maximum.
    assert before == pytest.approx(mean_lower_bound(np.ones(50), 0.01), abs=1e-9)


def test_leading_axes_and_growth():
    scores = coverage.beta(np.random.default_rng(2), 0.9, 0.1, (2, 4, 1000))
    bound = SequentialMean(0.01, shape=(2, 4))
    for part in np.split(scores, [100, 101, 900], axis=-1):
        found = bound.update(part)
    assert found.shape == (2, 4)
    batch = mean_lower_bound(scores, 0.01)
    assert (found >= batch - 1e-9).all()
    for i in range(2):
        for j in range(4):
            assert found[i, j] >= mean_lower_bound(scores[i, j], 0.01) - 2e-9


@pytest.mark.parametrize("p", [0.2, 0.97, 1.0])
def test_a_proportion_is_the_mixture_of_its_zeros_and_ones(p):
    hits = np.random.default_rng(3).random((2, 600)) < p
    counted, scored = SequentialProportion(0.01, (2,)), SequentialMean(0.01, shape=(2,))
    for first in range(0, 600, 50):
        part = hits[:, first : first + 50]
        np.testing.assert_allclose(counted.update(part.sum(1), 50), scored.update(part), atol=1e-9)
    assert counted.n == 600


def test_a_proportion_takes_no_memory_and_a_billion_samples():
    bound = SequentialProportion(1e-3)
    assert bound.update(999_000_000, 1_000_000_000) == pytest.approx(0.999, abs=1e-4)
    assert bound.bound < 0.999


def test_no_success_says_nothing():
    assert SequentialProportion(0.01).update(0, 10) == 0.0
    assert SequentialMean(0.01).update(np.zeros(10)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha.*got 0.0"),
        ({"alpha": 0.1, "method": "hoeffding"}, "anytime-valid method.*'hoeffding'"),
        ({"alpha": 0.1, "method": "bernstein"}, "'bernstein'"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequentialMean(**arguments)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.ones((3, 5)), r"wanted scores \[\*\(2,\), m\], got shape \(3, 5\)"),
        (np.ones(5), r"got shape \(5,\)"),
        (np.ones((2, 0)), "n ≥ 1"),
        (np.full((2, 1), 1.5), "outside or NaN"),
    ],
)
def test_wrong_chunks_are_refused_and_leave_no_trace(chunk, message):
    bound = SequentialMean(0.1, shape=(2,))
    with pytest.raises(ValueError, match=message):
        bound.update(chunk)
    assert bound.n == 0


@pytest.mark.parametrize(
    ("successes", "n", "message"),
    [
        (3, 2, "between 0 and n"),
        (0.5, 2, "integers"),
        (np.array([1, 1]), 2, r"shape \(\)"),
        (1, np.array([2, 2]), "one n"),
    ],
)
def test_wrong_counts_are_refused(successes, n, message):
    bound = SequentialProportion(0.1)
    with pytest.raises(ValueError, match=message):
        bound.update(successes, n)
    assert bound.n == 0
