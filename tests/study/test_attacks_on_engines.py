"""Every attack of the catalogue on a built-in engine, and what attacks see of pooled encoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fsfast.engine.engine import load_engine
from fsfast.report.examples import FOLDER
from study.attacks.catalogue import SPECS
from study.attacks.objectives import Aim
from study.attacks.run import run
from study.defences import levels_of_pixels
from study.pictures import read_png
from study.targets import image_target
from study.victim import Victim


@pytest.fixture(scope="module")
def victim():
    return Victim.of(load_engine("demo"))


@pytest.fixture(scope="module")
def levels():
    return levels_of_pixels(read_png(FOLDER / "demo" / "digit-1.png")[None])


@pytest.mark.parametrize("name", SPECS)
def test_every_attack_stays_in_its_ball_and_on_the_grid(name, victim, levels):
    target = image_target(victim, levels_of_pixels(read_png(FOLDER / "demo" / "digit-2.png")[None]))
    spec = replace(SPECS[name], steps=2, noises=1)
    attacked = run(Aim(spec, victim, levels, target), torch.tensor([0.2]))
    change = attacked - levels
    assert torch.equal(attacked, attacked.round())
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert change.any()
    if spec.norm == "linf":
        assert change.abs().max() <= 16
    else:
        assert change.norm() <= 255 * 0.2 * spec.eps
    again = run(Aim(spec, victim, levels, target), torch.tensor([0.2]))
    assert torch.equal(attacked, again)


def test_a_class_is_reached_on_the_encoder_alone_and_not_through_the_defence(victim, levels):
    target = image_target(victim, levels_of_pixels(read_png(FOLDER / "demo" / "digit-2.png")[None]))
    attacked = run(Aim(replace(SPECS["class"], steps=15), victim, levels, target.as_class()))
    with torch.no_grad():
        assert victim.scores(victim.clean(attacked)).argmax() == 2
        assert victim.scores(victim.smoothed(attacked, victim.fresh(8, 1, "test"))).argmax() == 1


def test_tokens_of_a_pooled_encoder_are_those_that_it_pools(pooled_path):
    victim = Victim.of(load_engine("photo"))
    levels = levels_of_pixels(np.full((1, 224, 224, 3), 90, np.uint8))
    with torch.no_grad():
        units, tokens = victim.with_tokens(levels)
        torch.testing.assert_close(units, victim.clean(levels))
    assert tokens.shape == (1, 49, 1280)
    victim = Victim.of(load_engine(pooled_path))
    size = victim.function.resize.rows.shape[0]
    levels = 255 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        units, tokens = victim.with_tokens(levels)
        torch.testing.assert_close(units, victim.clean(levels))
    assert units.shape[1] == 1
    assert tokens.shape[1] > 1
