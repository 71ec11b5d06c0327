"""Other sizes come onto the grid as the hosts put them there: their procedures in Pillow, within one level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.images.grid import MIDDLE_GREY, RESIZE, Grid, to_grid_image

CLIPS_MEAN = (122, 116, 104)
SIZES = [(300, 451), (480, 640), (108, 192), (500, 333), (224, 300), (67, 100), (240, 227)]


@pytest.fixture(scope="module")
def cat():
    return Image.open(Path(fsfast.__file__).parent / "assets" / "cat.jpg").convert("RGB")


def clips(image, side, place):
    """torchvision's Resize and CenterCrop; transformers differs in the place of an odd pixel."""
    width, height = image.size
    short = min(width, height)
    new = [side if length == short else int(side * length / short) for length in (width, height)]
    left, upper = (place((length - side) / 2) for length in new)
    resized = image.resize(new, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, upper, left + side, upper + side)))


def llavas(image, side, colour):
    """expand2square, and the processor's resize."""
    width, height = image.size
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), colour)
    square.paste(image, ((longer - width) // 2, (longer - height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def deviation(image, grid, expected):
    return np.abs(to_grid_image(image, grid).pixels.astype(int) - expected).max()


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_clips(cat, size):
    image = cat.resize(size[::-1])
    assert deviation(image, Grid(96, 96, "crop"), clips(image, 96, round)) <= 1
    assert deviation(image, Grid(96, 96, "crop-floor"), clips(image, 96, int)) <= 1


def test_the_place_of_an_odd_pixel_is_the_hosts(cat):
    """Three columns too many: torchvision leaves out two on the left, transformers one."""
    image = cat.resize((99, 96))
    pixels = np.asarray(image)
    for fit, first in (("crop", 2), ("crop-floor", 1)):
        np.testing.assert_array_equal(
            to_grid_image(image, Grid(96, 96, fit)).pixels, pixels[:, first : first + 96]
        )


@pytest.mark.parametrize("size", [*SIZES, (300, 1000)])
def test_pad_is_llavas(cat, size):
    image = cat.resize(size[::-1])
    for colour in (CLIPS_MEAN, MIDDLE_GREY):
        grid = Grid(112, 112, "pad", colour=colour)
        assert deviation(image, grid, llavas(image, 112, colour)) <= 1


def test_grids_that_are_not_square(cat):
    """A wide grid: the crop touches both its sides, the canvas has its proportions."""
    image = cat.resize((400, 100))
    (cropped,) = (to_grid_image(image, Grid(50, 120, "crop")),)
    assert cropped.source["steps"] == ["scaled to 50×200, the middle 50×120 kept, bicubic"]
    whole = to_grid_image(image, Grid(50, 200, "squash"))
    np.testing.assert_array_equal(cropped.pixels, whole.pixels[:, 40:160])
    padded = to_grid_image(cat.resize((100, 100)), Grid(50, 120, "pad", colour=(1, 2, 3)))
    assert padded.source["steps"] == ["padded to 100×240 with colour (1, 2, 3), scaled to 50×120, bicubic"]
    assert (padded.pixels[:, :30] == (1, 2, 3)).all()
    assert (padded.pixels[:, 90:] == (1, 2, 3)).all()


@pytest.mark.parametrize("fit", ["squash", "crop", "crop-floor", "pad"])
def test_a_matching_size_keeps_every_bit(cat, fit):
    image = cat.resize((12, 9))
    result = to_grid_image(image, Grid(9, 12, fit))
    np.testing.assert_array_equal(result.pixels, np.asarray(image))
    assert result.source["steps"] == []
    assert "resize" not in result.source


def test_what_the_picture_became_is_recorded(cat):
    result = to_grid_image(cat.resize((50, 30)), Grid(8, 6))
    assert result.source["steps"] == ["squashed to 8×6, bicubic"]
    assert result.source["resize"] == RESIZE == 2


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_long_thin_pictures_cost_no_more_than_others(fit):
    thin = to_grid_image(np.full((1, 5_000, 3), 7, np.uint8), Grid(64, 64, fit, colour=MIDDLE_GREY))
    if fit == "crop":
        assert (thin.pixels == 7).all()
    else:
        # One row of the canvas among the 78 that become one: its colour wins.
        assert thin.pixels.min() >= 126


def test_stripes_are_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for name in ("bicubic", "bilinear", "box", "hamming", "lanczos"):
        result = to_grid_image(stripes, Grid(16, 16, "squash", name))
        assert np.abs(result.pixels.astype(int) - 128).max() <= 20, name


@pytest.mark.parametrize(("fit", "kept"), [("squash", "squash"), ("crop", "crop"), ("pad", "pad")])
def test_pillows_resize_is_kept_for_old_certificates(cat, fit, kept):
    image = cat.resize((50, 30))
    result = to_grid_image(image, Grid(20, 20, fit), resize=1)
    assert result.source["steps"] == [f"{kept} to 20x20, bicubic"]
    assert "resize" not in result.source
    box = {"squash": (0, 0, 50, 30), "crop": (10, 0, 40, 30), "pad": (0, 0, 50, 30)}[fit]
    size = (20, 12) if fit == "pad" else (20, 20)
    pillows = np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box))
    inner = result.pixels[4:16] if fit == "pad" else result.pixels
    np.testing.assert_array_equal(inner, pillows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "1 to .* pixels, got 0×5"),
        ((5, -1), "got 5×-1"),
        ((10**6, 10**6), "pixels, got 1000000×1000000"),
        ((5, 5, "stretch"), "squash, crop, crop-floor, pad; got 'stretch'"),
        ((5, 5, "pad", "nearest"), "bicubic.*got 'nearest'"),
        ((5, 5, "pad", "bicubic", (1, 2)), r"three levels 0 … 255, got \(1, 2\)"),
        ((5, 5, "pad", "bicubic", (1, 2, 256)), "three levels"),
        ((5, 5, "pad", "bicubic", (1, 2, 3.0)), "three levels"),
        ((5, 5, "crop", "bicubic", (1, 2, 3)), "with fit = pad only"),
    ],
)
def test_wrong_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)
