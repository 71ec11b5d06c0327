"""Thresholds: exact in extended precision, checked in float64, symmetric, strictly inside 64 bits."""

import mpmath
import numpy as np
import pytest

from export.thresholds import gaussian_thresholds
from fsfast.kernels.tables import check_thresholds, noise_reach, noise_tables, noise_total_variation

# From nearly no noise over those of the paper to much more.
SIGMAS = [0.0005, 0.004, 0.12, 0.25, 0.5, 1.0, 2.5]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_thresholds_are_rounded_probabilities(sigma):
    thresholds = gaussian_thresholds(sigma)
    reach = len(thresholds) // 2
    with mpmath.workdps(80):
        s = 255 * mpmath.mpf(sigma)
        picked = {0, 1, reach - 1, reach, reach + 1, 2 * reach - 1} & set(range(2 * reach))
        for j in picked | set(range(0, 2 * reach, 97)):
            exact = 2**64 * mpmath.ncdf((j + 1 - reach - mpmath.mpf(1) / 2) / s)
            assert abs(int(thresholds[j]) - exact) <= mpmath.mpf(1) / 2


@pytest.mark.parametrize("sigma", SIGMAS)
def test_thresholds_fit_into_64_bits_and_nothing_is_cut_off(sigma):
    thresholds = gaussian_thresholds(sigma)
    reach = len(thresholds) // 2
    assert reach == noise_reach(sigma)
    assert thresholds[0] >= 1
    assert (thresholds[1:] >= thresholds[:-1]).all()
    assert [int(t) for t in thresholds[::-1]] == [2**64 - int(t) for t in thresholds]
    # One more would round to 0, which always counts, and to 2^64, which never counts.
    with mpmath.workdps(80):
        assert 2**64 * mpmath.ncdf((-reach - mpmath.mpf(1) / 2) / (255 * mpmath.mpf(sigma))) < 0.5


@pytest.mark.parametrize("sigma", SIGMAS)
def test_check_accepts_what_export_makes(sigma):
    check_thresholds(gaussian_thresholds(sigma), sigma)


def test_check_refuses_anything_else():
    good = gaussian_thresholds(0.25)
    shifted = good + np.where(np.arange(len(good)) < len(good) // 2, 1, -1).astype(np.int64).view(
        np.uint64
    ) * np.uint64(2**30)
    unordered = good.copy()
    unordered[[500, 501]] = unordered[[501, 500]]
    # Errors that alternate, each small: together they would move far more than the stated total variation.
    jagged = good.copy()
    jagged[400:-400:2] += np.uint64(10**7)
    jagged[len(good) // 2 :] = -jagged[: len(good) // 2][::-1]
    lopsided = good.copy()
    lopsided[500] += np.uint64(1)
    for bad, sigma, words in [
        (good, 0.26, "wanted"),
        (good[1:-1], 0.25, "wanted"),
        (good.astype(np.float64), 0.25, "uint64"),
        (good.reshape(2, -1), 0.25, "wanted"),
        (unordered, 0.25, "ascending"),
        (lopsided, 0.25, "symmetric"),
        (shifted, 0.25, "deviate"),
        (jagged, 0.25, "deviate"),
        # Nearly the same sigma has the same length, but not the same table.
        (gaussian_thresholds(0.25 + 1e-9), 0.25, "deviate"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_thresholds(bad, sigma)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e-5, np.nan, np.inf])
def test_sigmas_without_noise_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        gaussian_thresholds(sigma)


def test_total_variation_bounds_the_exact_distance():
    # Small enough to be summed exactly: distribution of the table against round(sZ), all in extended precision.
    for sigma in (0.001, 0.004, 0.02):
        thresholds = gaussian_thresholds(sigma)
        reach = len(thresholds) // 2
        with mpmath.workdps(80):
            s = 255 * mpmath.mpf(sigma)
            edges = [mpmath.mpf(0), *(mpmath.mpf(int(t)) / 2**64 for t in thresholds), mpmath.mpf(1)]
            distance = mpmath.ncdf((-reach - mpmath.mpf(1) / 2) / s)
            for i in range(2 * reach + 1):
                n = i - reach
                gaussian = mpmath.ncdf((n + mpmath.mpf(1) / 2) / s) - mpmath.ncdf((n - mpmath.mpf(1) / 2) / s)
                distance += abs(edges[i + 1] - edges[i] - gaussian) / 2
            assert 0 < distance <= noise_total_variation(sigma, 1)
            assert 1000 * distance <= noise_total_variation(sigma, 1000)


def test_total_variation_at_the_usual_size():
    # certificates.md: about 5e-12 at 224², σ = 0.25.
    assert noise_total_variation(0.25, 3 * 224 * 224) == pytest.approx(4.8e-12, rel=0.02)
    with pytest.raises(ValueError, match="elements"):
        noise_total_variation(0.25, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_the_affine_map_rounded_once_per_step(dtype):
    torch = pytest.importorskip("torch")
    scale, offset = np.array([0.0146, 0.0150, 0.0142]), np.array([-1.79, -1.75, -1.48])
    tables = noise_tables(gaussian_thresholds(0.25), scale, offset, dtype)
    levels = np.arange(-tables.reach, 256 + tables.reach)
    exact = torch.from_numpy((scale[:, None] * levels + offset[:, None]).astype(np.float32))
    wanted = exact.to(getattr(torch, dtype))
    got = torch.from_numpy(tables.values.view(np.int16) if dtype == "bfloat16" else tables.values)
    assert torch.equal(got.view(wanted.dtype), wanted)


def test_tables_refuse_wrong_arguments():
    thresholds, three = gaussian_thresholds(0.01), np.ones(3)
    with pytest.raises(TypeError, match="uint64"):
        noise_tables(thresholds.astype(np.int64), three, three, "float32")
    with pytest.raises(ValueError, match="even"):
        noise_tables(thresholds[1:], three, three, "float32")
    with pytest.raises(ValueError, match="ascending"):
        noise_tables(thresholds[::-1], three, three, "float32")
    with pytest.raises(ValueError, match="scales"):
        noise_tables(thresholds, np.ones(2), three, "float32")
    with pytest.raises(ValueError, match="dtype"):
        noise_tables(thresholds, three, three, "float64")
