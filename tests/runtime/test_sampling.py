"""Rows, streams and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from fsfast.runtime.sampling import Stream, check_samples, micro_batches
from fsfast.runtime.seeds import check_seed, seed_from_secret, seed_from_system


@pytest.mark.parametrize(
    ("images", "samples", "size"), [(1, 1, 1), (1, 4, 4), (3, 4, 5), (2, 7, 16), (4, 1, 3)], ids=str
)
def test_every_sample_of_every_image_comes_once_and_in_order(images, samples, size):
    seeds = [10 + i for i in range(images)]
    batches = list(micro_batches(seeds, samples, size))
    assert all(len(rows) == size for rows in batches)
    image, seed, sample = (
        np.concatenate([getattr(r, name) for r in batches]) for name in ("image", "seed", "sample")
    )
    real = image >= 0
    assert real.sum() == images * samples
    assert not real[images * samples :].any()
    np.testing.assert_array_equal(image[real], np.repeat(np.arange(images), samples))
    np.testing.assert_array_equal(sample[real], np.tile(np.arange(samples), images))
    np.testing.assert_array_equal(seed[real], np.repeat(seeds, samples))


def test_seeds_keep_all_64_bits():
    (rows,) = micro_batches([2**64 - 1], 1, 1)
    assert int(rows.seed[0]) == 2**64 - 1


def test_the_serving_stream_is_not_the_certification_stream():
    assert len({int(s) for s in Stream}) == 4
    assert (Stream.SERVING, Stream.CERTIFICATION, Stream.PILOT) == (0, 1, 2)


def test_seeds_from_a_secret_depend_on_everything_they_should():
    pixels = np.zeros((4, 6, 3), np.uint8)
    other = pixels.copy()
    other[3, 5, 2] = 1
    base = (b"s" * 16, "encode", "ab", 0.25, pixels)
    variants = [
        base,
        (b"t" * 16, *base[1:]),
        (base[0], "certify", *base[2:]),
        (*base[:2], "ac", *base[3:]),
        (*base[:3], 0.5, pixels),
        (*base[:4], other),
        (*base[:4], pixels.reshape(6, 4, 3)),
    ]
    seeds = [seed_from_secret(*v) for v in variants]
    assert len(set(seeds)) == len(variants)
    assert seed_from_secret(*base) == seeds[0]
    assert all(0 <= s < 2**64 for s in seeds)


def test_system_seeds_differ():
    assert len({seed_from_system() for _ in range(100)}) == 100


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", None, True])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="wanted a seed"):
        check_seed(seed)


@pytest.mark.parametrize("count", [0, -3, 2.0, True, None, 2**32])
def test_bad_sample_counts(count):
    with pytest.raises(ValueError, match="wanted n0 ≥ 1"):
        check_samples(count, "n0")
