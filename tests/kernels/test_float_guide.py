"""The GPU's look-up table against the thresholds: at every edge of a bucket and around every threshold."""

import numpy as np
import pytest

from export.thresholds import gaussian_thresholds
from fsfast.kernels import float_guide as guides
from fsfast.kernels.float_guide import float_guide

LOW32 = np.uint64(2**32 - 1)


def counts(guide: np.ndarray, thresholds: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the kernel reads for high words: counts, and where the low word has to decide."""
    field, fraction = guides.field_bits(len(thresholds)), guides.fraction_bits(len(guide))
    bits = high.view(np.int32).astype(np.float32).view(np.uint32)
    sums = guide[bits >> np.uint32(23 - fraction)] + (high >> np.uint32(guides.dropped_bits(fraction, field)))
    return (sums >> np.uint32(field)).astype(np.int64), sums & np.uint32((1 << field) - 1) == 0


def edges(fraction: int) -> np.ndarray:
    """Return the first and the last high word of every bucket, found by bisection."""
    found = []
    # From 0 on upwards, and from −1 on downwards, buckets are numbered in ascending order.
    for side in (lambda n: n, lambda n: 2**32 - 1 - n):

        def bucket(n: np.ndarray, side=side) -> np.ndarray:
            high = side(n).astype(np.uint32)
            return high.view(np.int32).astype(np.float32).view(np.uint32) >> np.uint32(23 - fraction)

        names = np.arange(bucket(np.array([0]))[0], bucket(np.array([2**31 - 1]))[0] + 1)
        low, high = np.zeros(len(names), np.int64), np.full(len(names), 2**31 - 1)
        while (low < high).any():
            middle = (low + high) // 2
            reached = bucket(middle) >= names
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        found += [side(low), side(np.maximum(low - 1, 0))]
    return np.concatenate([*found, [0, 1, 2**31 - 1, 2**31, 2**32 - 1]]).astype(np.uint32)


def check(thresholds: np.ndarray) -> float:
    """Check all edges, the neighbours of all thresholds and random numbers; return the share left undecided."""
    guide = float_guide(thresholds)
    drop = 1 << guides.dropped_bits(guides.fraction_bits(len(guide)), guides.field_bits(len(thresholds)))
    own = (thresholds >> np.uint64(32)).astype(np.int64)
    near = np.concatenate([own + step for step in (-drop, -1, 0, 1, drop)])
    anywhere = np.random.default_rng(3).integers(0, 2**32, 10**6)
    high = np.concatenate([near[(near >= 0) & (near < 2**32)], anywhere]).astype(np.uint32)
    high = np.concatenate([edges(guides.fraction_bits(len(guide))), high])
    count, undecided = counts(guide, thresholds, high)
    smallest = high.astype(np.uint64) << np.uint64(32)
    wanted = [np.searchsorted(thresholds, u, side="right") for u in (smallest, smallest | LOW32)]
    # A count that the guide gives holds for every low word.
    for exact in wanted:
        np.testing.assert_array_equal(count[~undecided], exact[~undecided])
    return float(undecided[-len(anywhere) :].mean())


@pytest.mark.parametrize("sigma", [0.0005, 0.05, 0.12, 0.25, 0.5, 1.0, 4.0])
def test_counts_are_exact_for_gaussian_thresholds(sigma):
    # A million numbers; at 4.0 no guide is fine enough for 1e-5.
    assert check(gaussian_thresholds(sigma)) < (1e-4 if sigma > 1 else 3e-5)


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        ([], "no threshold: nothing to count"),
        ([0, 2**64 - 1], "the first and the last number"),
        ([2**63 - 1, 2**63], "either side of the middle, where signs change"),
        ([1, 2, 3, 2**32 - 1, 2**64 - 2**32, 2**64 - 1], "several with one high word, at the ends"),
        ([5 << 32, (5 << 32) + 7, 6 << 32, 2**62], "several in narrow buckets"),
        ([2**k for k in range(64)], "one in every octave"),
    ],
)
def test_counts_are_exact_for_other_thresholds(thresholds, why):
    assert check(np.array(thresholds, np.uint64)) < 1e-5, why


def test_dense_thresholds_have_no_guide():
    # Two in one bucket, however narrow: the kernel bisects for every number.
    assert len(float_guide(np.array([2**62, 2**62 + 1], np.uint64))) == 0


def test_a_wrong_entry_would_be_noticed(monkeypatch):
    thresholds = gaussian_thresholds(0.25)
    guide = float_guide(thresholds)
    # The bucket of the threshold next to the middle, one unit further.
    high = (thresholds[len(thresholds) // 2 - 1 :][:1] >> np.uint64(32)).astype(np.uint32)
    guide[guides.bucket(high, guides.fraction_bits(len(guide)))] += np.uint32(1)
    monkeypatch.setitem(globals(), "float_guide", lambda _: guide)
    with pytest.raises(AssertionError):
        check(thresholds)


def test_too_many_thresholds_are_refused():
    with pytest.raises(ValueError, match="2\\^21"):
        float_guide(np.arange(1 << 21, dtype=np.uint64))
    for entries in (0, 1, 1 << 12, (1 << 15) - 1, 1 << 21):
        with pytest.raises(ValueError, match="guide"):
            guides.fraction_bits(entries)
