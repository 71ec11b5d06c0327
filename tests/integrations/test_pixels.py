"""From what hosts hand to their towers back to levels: exact, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fsfast.errors import FsfastError, ImageError
from fsfast.images.grid import Grid
from fsfast.integrations.pixels import to_levels

torch = pytest.importorskip("torch")

from tests.integrations.pixel_values import normalised  # noqa: E402

H, W = 16, 24


@pytest.fixture
def manifest(demo):
    return replace(demo.manifest, grid=Grid(H, W))


@pytest.fixture
def levels():
    # Every level in every channel.
    images = np.random.default_rng(0).permuted(
        np.tile(np.arange(256, dtype=np.uint8), 3 * 3).reshape(9, 256), axis=1
    )
    return np.ascontiguousarray(images.reshape(-1)[: 2 * H * W * 3].reshape(2, H, W, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_normalised_pixels_come_back(levels, manifest, dtype):
    back = to_levels(normalised(levels, manifest, dtype), "normalised", manifest)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_levels_travel_in_every_type(levels, manifest, dtype, order):
    x = torch.from_numpy(levels).permute(order).to(dtype)
    np.testing.assert_array_equal(to_levels(x, "levels", manifest), levels)
    if dtype is not torch.bfloat16:
        np.testing.assert_array_equal(to_levels(x.numpy(), "levels", manifest), levels)


def test_the_form_is_declared_and_not_guessed(levels, manifest):
    x = normalised(levels, manifest)
    for given, form, message in (
        (x, "levels", r"whole numbers 0 … 255, got float32, \d+ of 2304 values no levels; .*'normalised'"),
        (torch.from_numpy(levels).permute(0, 3, 1, 2).float(), "normalised", "off the grid"),
        (torch.from_numpy(levels).permute(0, 3, 1, 2), "normalised", "got uint8"),
        (x, "pixels", "one of levels, normalised, got 'pixels'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_levels(given, form, manifest)


def test_normalised_bfloat16_is_refused_with_the_remedy(levels, manifest):
    with pytest.raises(
        ImageError, match=r"got bfloat16.*float32 up to the tower.*do_rescale = do_normalize = False"
    ):
        to_levels(normalised(levels, manifest, torch.bfloat16), "normalised", manifest)


@pytest.mark.parametrize("form", ["levels", "normalised"])
def test_gradients_are_refused(levels, manifest, form):
    x = torch.zeros(1, 3, H, W, requires_grad=True)
    for given in (x, x * 2):
        with pytest.raises(FsfastError, match=r"would see none; take the torch networks of fsfast\.models"):
            to_levels(given, form, manifest)


def test_another_size_is_refused(levels, manifest):
    for shape in ((1, 3, W, H), (3, H, W), (1, 1, H, W), (0, 3, H, W), (1, 1, 3, H, W)):
        for form in ("levels", "normalised"):
            with pytest.raises(ImageError, match=r"wanted.*got shape|no axis of length 0"):
                to_levels(torch.zeros(shape), form, manifest)
    with pytest.raises(ImageError, match=r"\[B, 3, 16, 24\], got shape \[1, 16, 24, 3\]"):
        to_levels(torch.zeros(1, H, W, 3), "normalised", manifest)


@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, float("nan"), float("inf")])
def test_what_is_no_level_is_refused(manifest, value):
    x = torch.zeros(1, 3, H, W)
    x[0, 1, 2, 3] = value
    with pytest.raises(ImageError, match="1 of 1152 values no levels"):
        to_levels(x, "levels", manifest)


def test_another_mean_is_refused(levels, manifest):
    x = normalised(levels, replace(manifest, mean=(0.5, 0.5, 0.5)), torch.float16)
    with pytest.raises(ImageError, match=r"off the grid.*mean and std that the image processor used"):
        to_levels(x, "normalised", manifest)
