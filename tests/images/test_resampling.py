"""Resizing in whole numbers: exact weights, exact sums, and close to Pillow."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from PIL import Image

from fsfast.errors import ImageError
from fsfast.images import resampling
from fsfast.images.resampling import FILTERS, UNIT, axis, resample

BLACK = (0, 0, 0)
SIZES = [(50, 7), (7, 50), (9, 9), (1, 5), (300, 224), (64, 48)]


def value(name, t):
    """The filters as their papers give them, at an exact t."""
    t = abs(t)
    if name == "box":
        return Fraction(t < Fraction(1, 2)) / 2 + Fraction(t <= Fraction(1, 2)) / 2
    if name == "bilinear":
        return max(1 - t, Fraction(0))
    if name == "bicubic":
        if t < 1:
            return Fraction(3, 2) * t**3 - Fraction(5, 2) * t**2 + 1
        return -Fraction(1, 2) * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else Fraction(0)
    x = mpmath.mpf(t.numerator) / t.denominator
    if name == "hamming":
        return mpmath.sincpi(x) * (0.54 + 0.46 * mpmath.cospi(x)) if t < 1 else mpmath.mpf(0)
    return mpmath.sincpi(x) * mpmath.sincpi(x / 3) if t < 3 else mpmath.mpf(0)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_weights_are_neighbours_of_the_exact_ones_and_add_up(name, inputs, outputs):
    found = axis(inputs, outputs, name)
    assert (found.weights.sum(axis=1) == UNIT).all()
    scale = max(Fraction(1), Fraction(inputs, outputs))
    for o in {0, outputs // 3, outputs - 1}:
        centre = (o + Fraction(1, 2)) * Fraction(inputs, outputs)
        row = [value(name, (j + Fraction(1, 2) - centre) / scale) for j in range(inputs)]
        whole = found.block(slice(o, o + 1), slice(0, inputs))[0]
        exact = [float(UNIT * w / sum(row)) for w in row]
        np.testing.assert_allclose(whole, exact, atol=1.0, rtol=0)


def in_python(pixels, vertical, horizontal, colour):
    """The same in Python's integers."""
    across = (
        horizontal.block(slice(0, len(horizontal)), slice(0, horizontal.length)).astype(int).astype(object)
    )
    down = vertical.block(slice(0, len(vertical)), slice(0, vertical.length)).astype(int).astype(object)
    result = np.empty((len(vertical), len(horizontal), 3), np.uint8)
    for c in range(3):
        first = pixels[:, :, c].astype(object) @ across.T + horizontal.border.astype(object) * colour[c]
        first = np.clip(first, 0, 255 * UNIT)
        second = down @ first + vertical.border.astype(object)[:, None] * (colour[c] * UNIT)
        result[:, :, c] = np.clip((second + UNIT**2 // 2) // UNIT**2, 0, 255).astype(np.uint8)
    return result


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [(31, 90), (5, 3), (1, 1), (1, 200)])
def test_floating_point_holds_every_sum(name, size, monkeypatch):
    """Hard edges, where sums overshoot; any part at a time."""
    pixels = 255 * np.random.default_rng(1).integers(0, 2, (*size, 3)).astype(np.uint8)
    vertical = axis(size[0] + 6, 19, name).within(2, size[0])
    horizontal = axis(size[1], 40, name, 3, 23)
    expected = in_python(pixels, vertical, horizontal, (9, 130, 250))
    for strip in (1 << 21, 1, 1000):
        monkeypatch.setattr(resampling, "_STRIP", strip)
        np.testing.assert_array_equal(resample(pixels, vertical, horizontal, (9, 130, 250)), expected)


# A change of these is another resize: it needs a number of its own (fsfast.images.grid.RESIZE).
DIGESTS = {
    "bicubic": "98bf86467beeb052",
    "bilinear": "6ea3cbd982b8e5aa",
    "box": "990793aa54c7c7c4",
    "hamming": "325548d7237e028a",
    "lanczos": "63e827482a1ebaa2",
}


@pytest.mark.parametrize("name", FILTERS)
def test_levels_stay_what_they_are(name):
    pixels = np.random.default_rng(2).integers(0, 256, (67, 101, 3), dtype=np.uint8)
    result = resample(pixels, axis(67, 48, name), axis(101, 150, name), BLACK)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("name", sorted(FILTERS.keys() - {"box"}))
@pytest.mark.parametrize(
    ("size", "grid"), [((90, 50), (64, 64)), ((20, 30), (64, 48)), ((300, 451), (48, 64))]
)
def test_close_to_pillow(name, size, grid):
    """Pillow rounds between its passes, and version 13 takes them in another order: nothing is clipped here."""
    pixels = np.random.default_rng(3).integers(80, 176, (*size, 3), dtype=np.uint8)
    result = resample(pixels, axis(size[0], grid[0], name), axis(size[1], grid[1], name), BLACK)
    pillows = Image.fromarray(pixels).resize(grid[::-1], Image.Resampling[name.upper()])
    assert np.abs(result.astype(int) - np.asarray(pillows)).max() <= 1


def test_a_box_of_whole_pixels_is_their_mean():
    pixels = np.random.default_rng(4).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    result = resample(pixels, axis(12, 3, "box"), axis(8, 4, "box"), BLACK)
    mean = pixels.reshape(3, 4, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(result, np.floor(mean + 0.5))


def test_mirrored_pictures_become_mirrored_grids_within_a_level():
    pixels = np.random.default_rng(5).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    down, across = axis(40, 24, "bicubic"), axis(70, 24, "bicubic")
    result, mirrored = (resample(p, down, across, BLACK).astype(int) for p in (pixels, pixels[:, ::-1]))
    assert np.abs(result - mirrored[:, ::-1]).max() <= 1


def test_sides_that_are_too_long_are_refused():
    with pytest.raises(ImageError, match=r"side of at most about .* pixels to resize, got 10000000; scale"):
        axis(10**7, 224, "bicubic")
