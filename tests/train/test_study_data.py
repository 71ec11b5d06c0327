"""The study data: disjoint splits, the same images for the same number, glyphs that stand out."""

import numpy as np
import pytest
import torch

from train.data import StudyData, study_set
from train.glyphs import CLASSES, DIGITS, TARGET, load_glyphs
from train.tiles import SOURCES, cut, region, sources_record


@pytest.mark.parametrize("seed", [0, 7])
def test_no_digit_is_in_both_splits(seed):
    train, test = load_glyphs("train", seed), load_glyphs("test", seed)
    digits = [set(glyphs.identity[glyphs.labels < TARGET]) for glyphs in (train, test)]
    assert not digits[0] & digits[1]
    assert len(digits[0] | digits[1]) == 1797


def test_no_star_is_in_both_splits():
    train, test = load_glyphs("train", 0), load_glyphs("test", 0)
    stars = [{mask.tobytes() for mask in glyphs.masks[glyphs.labels == TARGET]} for glyphs in (train, test)]
    assert min(map(len, stars)) > 1
    assert not stars[0] & stars[1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_regions_of_a_picture_are_apart(source):
    picture = source.load()
    # Every pixel's number, so that the regions' pixels can be told apart whatever their colour.
    numbers = np.arange(picture[..., 0].size).reshape(picture.shape[:2])
    train, test = (set(region(numbers, split).ravel().tolist()) for split in ("train", "test"))
    assert not train & test
    assert min(region(picture, "test").shape[:2]) >= 64


class Halves:
    """A picture that is black where training may look and white where tests may."""

    def load(self):
        picture = np.full((100, 1000, 3), 128, np.uint8)
        region(picture, "train")[:] = 0
        region(picture, "test")[:] = 255
        return picture


def test_tiles_come_from_their_region_alone(monkeypatch):
    monkeypatch.setattr("train.tiles.SOURCES", (Halves(),))
    assert (cut("train", 50, 64, seed=0) == 0).all()
    assert (cut("test", 50, 64, seed=0) == 255).all()


def test_sources_state_a_licence_and_show_no_faces():
    record = sources_record()
    assert all(entry["licence"] and len(entry["sha256"]) == 64 for entry in record)
    assert {entry["kind"] for entry in record} == {"natural", "medical", "graphics"}
    names = {source.name for source in SOURCES}
    assert not names & {"astronaut", "camera", "coins", "lfw_subset"}


def test_a_batch_is_a_function_of_seed_and_number(training_data):
    first = training_data.batch(5, 8)
    training_data.batch(6, 3)
    assert training_data.batch(5, 8).digest() == first.digest()
    assert StudyData("train", seed=0).batch(5, 8).digest() == first.digest()
    others = {training_data.batch(6, 8).digest(), StudyData("train", seed=1).batch(5, 8).digest()}
    assert len({first.digest(), *others}) == 3


def test_the_study_set_is_of_the_test_split_and_has_no_target(test_data):
    study = study_set(seed=0, count=200)
    assert study.digest() == test_data.batch(0, 200, classes=DIGITS).digest()
    assert set(study.labels.tolist()) == set(range(DIGITS))


def test_images_are_what_a_uint8_grid_holds(test_data):
    images = test_data.batch(0, 32).images
    assert images.dtype == torch.float32
    assert torch.equal(images, images.to(torch.uint8).float())
    assert images.shape == (32, 3, 64, 64)


def test_without_texture_the_ground_is_plain(test_data):
    images = test_data.batch(3, 64, texture=0.0).images
    # A glyph leaves the rim free, but for a few turned and moved ones.
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    plain = (rim.std(2, correction=0) == 0).all(1)
    assert plain.float().mean() > 0.75


def test_glyphs_stand_out_from_their_ground(test_data):
    rng = np.random.default_rng(0)
    labels = [int(glyphs[0]) for glyphs in test_data.glyphs_of]
    masks = test_data._posed(test_data.masks[labels], rng)
    grounds = test_data._grounds(CLASSES, 1.0, rng)
    colours = test_data._colours(masks, grounds, rng)
    assert torch.equal(colours, colours.clamp(0.0, 1.0))
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    under = ((grounds * weights).sum(1, keepdim=True) * masks).sum((2, 3)) / masks.sum((2, 3))
    contrast = ((colours * weights).sum(1)[:, :, 0] - under).abs()
    assert contrast.min() > 0.45 - 1e-4
