"""What recipes make of a picture against transformers' image processors; see test_parity.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from export.recipe import load_recipe
from fsfast.images.grid import to_grid_image
from tests.models.test_parity import transformers
from tests.models.test_parity_qwen import packed

__all__ = ["transformers"]
_384 = {"size": {"height": 384, "width": 384}, "resample": 3}
# Recipe → the class of its preprocessor_config.json, and what that says.
PROCESSORS = {
    "clip-l14": ("CLIPImageProcessor", {}),
    "siglip-so400m-384": ("SiglipImageProcessor", _384),
    "siglip2-so400m-384": ("SiglipImageProcessor", _384),
}
# A square of more pixels becomes one of 448.
_OF_448 = {"size": {"shortest_edge": 448 * 448, "longest_edge": 460 * 460}}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# Recipe → what the preprocessor_config.json says, and patches along a picture of 448 pixels.
QWEN = {"qwen2.5-vl-448": ({}, 32), "qwen3-vl-448": ({"patch_size": 16, **_HALF}, 28)}


def picture(width, height):
    """Smooth, so that it is like a photograph."""
    levels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def prepared(name, image):
    """[3, S, S], as a recipe gives it to the encoder."""
    recipe = load_recipe(name)
    pixels = to_grid_image(image, recipe.grid).pixels / 255
    return ((pixels - recipe.mean) / recipe.std).transpose(2, 0, 1)


def processed(transformers, kind, settings, image):
    processor = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    return processor(**settings)(image, return_tensors="np")["pixel_values"]


def assert_same_levels(got, want, std):
    """But for a level where Pillow rounds twice, across and along."""
    assert got.shape == want.shape
    levels = np.abs(got - want) * min(std) * 255
    assert levels.max() < 1.2
    assert levels.mean() < 0.3


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_picture_becomes_the_same_pixels(transformers, name):
    # Twice and thrice as wide as 224 is: CLIP's processor crops at whole pixels, wherever the middle is.
    image = picture(672, 448)
    (want,) = processed(transformers, *PROCESSORS[name], image)
    assert_same_levels(prepared(name, image), want, load_recipe(name).std)


@pytest.mark.parametrize("name", QWEN)
def test_a_square_picture_becomes_the_same_patches(transformers, name):
    """Others keep their proportions there, and an engine has one size."""
    settings, side = QWEN[name]
    image = picture(600, 600)
    want = processed(transformers, "Qwen2VLImageProcessor", settings | _OF_448, image)
    config = type("Config", (), {"image_size": 448, "patch": 448 // side, "merge": 2})
    got = packed(torch.from_numpy(prepared(name, image))[None], config).numpy()
    assert_same_levels(got, want, load_recipe(name).std)
