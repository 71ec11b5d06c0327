"""Ascent by hand-computed steps: both balls, and every rule."""

import pytest
import torch

from train.ascent import AutoStep, L2Ball, LinfBall, Steady, ascend, checkpoints

LEVELS = torch.tensor([100.0, 2.0, 254.0]).reshape(1, 3, 1, 1)
SLOPE = torch.tensor([3.0, -4.0, 12.0]).reshape(1, 3, 1, 1)


def linear(images, _):
    return (images * SLOPE).sum((1, 2, 3))


def found(ball, rule, steps):
    return ascend(linear, ball, LEVELS.clone(), rule, steps).flatten().tolist()


def test_signs_step_by_step_to_the_edges():
    assert found(LinfBall(LEVELS, 8.0), Steady(3.0), 1) == [103.0, 0.0, 255.0]
    assert found(LinfBall(LEVELS, 8.0), Steady(3.0), 5) == [108.0, 0.0, 255.0]


def test_the_euclidean_step_has_its_length_and_the_ball_its_radius():
    # The slope's norm is 13.
    assert found(L2Ball(LEVELS, 13.0), Steady(0.65), 1) == pytest.approx([100.15, 1.8, 254.6])
    images = ascend(linear, L2Ball(LEVELS, 1.3), LEVELS.clone(), Steady(0.65), 9)
    assert (images - LEVELS).norm() <= 1.3 + 1e-5
    assert images.max() <= 255.0


def test_momentum_adds_the_gradients_as_they_are():
    signs = iter([1.0, -1.5, -1.5])

    def turning(images, _):
        return (images * next(signs)).sum((1, 2, 3))

    # Velocities 1, −1.5 + .9 = −.6, −1.5 − .54.
    images = ascend(turning, LinfBall(LEVELS, 50.0), LEVELS.clone(), Steady(2.0, momentum=0.9), 3)
    assert images[0, 0].item() == 100.0 + 2.0 - 2.0 - 2.0
    signs = iter([2.0, -1.0])
    images = ascend(turning, LinfBall(LEVELS, 50.0), LEVELS.clone(), Steady(2.0, momentum=0.9), 2)
    assert images[0, 0].item() == 104.0


def test_checkpoints_of_apgd():
    # .22, .41, .57, .70, .80, .87, then .06 each.
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_apgd_finds_a_maximum_within_the_ball_that_long_steps_jump_over():
    def hill(images, _):
        return -(images - 101.3).square().sum((1, 2, 3))

    ball = LinfBall(LEVELS[:, :1].expand(1, 3, 2, 2), 16.0)
    start = LEVELS[:, :1].expand(1, 3, 2, 2).clone()
    long = ascend(hill, ball, start.clone(), Steady(32.0), 100)
    own = ascend(hill, ball, start.clone(), AutoStep(16.0, 100), 100)
    assert (own - 101.3).abs().max() < 0.2
    assert (long - 101.3).abs().max() > 1.0


def test_apgd_returns_the_best_image_and_rows_do_not_meet():
    def score(images, _):
        return (images * SLOPE).sum((1, 2, 3)) - 0.01 * images.square().sum((1, 2, 3))

    levels = torch.cat([LEVELS, LEVELS.flip(1)])
    both = ascend(score, LinfBall(levels, 9.0), levels.clone(), AutoStep(9.0, 20), 20)
    for row in (0, 1):
        alone = levels[row : row + 1]
        own = ascend(score, LinfBall(alone, 9.0), alone.clone(), AutoStep(9.0, 20), 20)
        assert torch.equal(both[row : row + 1], own)
    assert (score(both, 0) > score(levels, 0)).all()


def test_rounding_stays_inside():
    ball = LinfBall(LEVELS, 1.5)
    assert ball.rounded(LEVELS + torch.tensor([1.5, 1.5, 1.0]).reshape(1, 3, 1, 1)).flatten().tolist() == [
        101.0,
        3.0,
        255.0,
    ]
    levels = torch.full((2, 3, 4, 4), 100.0)
    generator = torch.Generator().manual_seed(0)
    for radii in (torch.tensor([3.0, 6.0]), torch.tensor([0.5, 40.0])):
        ball = L2Ball(levels, radii)
        rounded = ball.rounded(ball.project(levels + 9 * torch.randn(levels.shape, generator=generator)))
        change = (rounded - levels).flatten(1)
        assert torch.equal(change, change.round())
        assert (change.norm(dim=1) <= radii).all()
    # The largest changes survive, as many as the radius allows.
    image = levels[:1].clone()
    image[0, 0, 0] += torch.tensor([1.9, 0.8, -0.7, 0.2])
    assert L2Ball(levels[:1], 2.3).rounded(image)[0, 0, 0].tolist() == [102.0, 101.0, 100.0, 100.0]


def test_random_starts_lie_inside():
    generator = torch.Generator().manual_seed(0)
    for ball in (LinfBall(LEVELS, 8.0), L2Ball(LEVELS, 8.0)):
        start = ball.random(generator)
        assert torch.equal(ball.project(start), start)
        assert not torch.equal(start, LEVELS)
