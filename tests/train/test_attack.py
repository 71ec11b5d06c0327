"""Attacks stay in their ball and on the grid, climb, and see the whole defence."""

import pytest
import torch
import torch.nn.functional as F

from fsfast.models import OneStepPurifier, SmoothnessMapper, UNet
from train.attack import Attack, adaptive_score, in_parts, plain_score
from train.defence import Defence, class_scores, clean_unit, noisy_units, predict, smoothed
from train.encoder import Classifier
from train.glyphs import TARGET
from train.loop import step_generator
from train.losses import add_noise, class_cosines


@pytest.fixture(scope="module")
def networks(small):
    torch.manual_seed(0)
    classifier = Classifier(small.encoder.vit).requires_grad_(False)
    unet = UNet(small.purifier.unet).requires_grad_(False)
    mapper = SmoothnessMapper(small.encoder.vit.width).requires_grad_(False)
    # Layers that start at zero would hide a missing gradient.
    for module in (unet, mapper):
        for parameter in module.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    defence = Defence("all", 0.25, classifier.encoder, OneStepPurifier(unet, 0.25), mapper)
    return defence, classifier.class_features


@pytest.fixture(scope="module")
def images(test_data):
    return test_data.batch(0, 3).images


def test_attacks_stay_in_the_ball_and_on_the_grid(networks, images):
    defence, classes = networks
    attacked = Attack(radius=5.0, step=3.0, steps=3).run(images, plain_score(defence, classes), "test")
    assert (attacked - images).abs().max() == 5.0
    assert torch.equal(attacked, attacked.to(torch.uint8).float())


def test_attacks_climb(networks, images):
    defence, classes = networks
    score = plain_score(defence, classes)
    attacked = Attack(steps=5).run(images, score, "test")
    assert (score(attacked, 0) > score(images, 0) + 0.01).all()


def test_rows_are_attacked_independently(networks, images):
    defence, classes = networks
    attack, score = Attack(steps=2, seed=1), plain_score(defence, classes)
    parts = in_parts(attack, images, score, "test", rows=1)
    # Each part has its own random start, so the first row alone must agree.
    assert torch.equal(parts[:1], attack.run(images[:1], score, "test"))


def test_the_adaptive_score_is_the_mean_over_its_noises(networks, images):
    defence, classes = networks
    expected = torch.zeros(len(images))
    for sample in (4, 5):
        z = torch.randn(images.shape, generator=step_generator(9, "adaptive", sample, images.device))
        tokens = defence.mapper(
            defence.encoder.tokens(defence.purifier(add_noise(images, z, 0.25))), defence.sigma
        )
        expected += class_cosines(tokens, classes)[:, TARGET] / 2
    torch.testing.assert_close(adaptive_score(defence, classes, noises=2, seed=9)(images, 2), expected)


def test_the_adaptive_gradient_passes_through_every_network(networks, images):
    defence, classes = networks
    levels = images[:1].clone().requires_grad_(True)
    score = adaptive_score(defence, classes, noises=1, seed=9)
    (gradient,) = torch.autograd.grad(score(levels, 0).sum(), levels)
    step = 2.0 * gradient.sign()
    # A first-order check along the gradient's signs: rounding is of x + noise, whole steps pass through it.
    change = (score(images[:1] + step, 0) - score(images[:1] - step, 0)).item()
    assert change == pytest.approx(2 * (gradient * step).sum().item(), rel=0.3)


def test_served_directions(networks, images):
    defence, classes = networks
    units = torch.stack(list(noisy_units(defence, images, 3, 0, "serving")))
    assert torch.allclose(units.flatten(2).norm(dim=2), torch.ones(3, len(images)))
    served = smoothed(defence, images, 3, 0, "serving")
    expected = F.normalize(units.mean(0), dim=-1) / units.shape[2] ** 0.5
    torch.testing.assert_close(served, expected)
    assert not torch.equal(units[0], units[1])
    assert torch.equal(predict(served, classes), class_scores(served, classes).argmax(1))


def test_class_scores_agree_with_the_training_scores(networks, images):
    defence, classes = networks
    tokens = defence.encoder.tokens(images / 255.0)
    scores = class_scores(clean_unit(defence.encoder, images), classes)
    torch.testing.assert_close(scores, class_cosines(tokens, classes))
