"""The loop: resuming repeats every bit, foreign checkpoints are refused, averages and rates as stated."""

import math
from dataclasses import replace

import pytest
import torch

from fsfast.models import OneStepPurifier, UNet
from train.checkpoint import load_checkpoint, write_text
from train.config import DEMO, Schedule, quick
from train.encoder import EncoderStage
from train.loop import Place, _Trainer, rate, run_stage, step_generator
from train.mapper import MapperStage
from train.purifier import PurifierStage


def stages(config, data):
    encoder = EncoderStage(config, data)
    frozen = encoder.module.encoder.requires_grad_(False)
    purifier = OneStepPurifier(UNet(config.purifier.unet).requires_grad_(False), config.sigma)
    return {
        "encoder": lambda: EncoderStage(config, data),
        "purifier": lambda: PurifierStage(config, data, frozen),
        "mapper": lambda: MapperStage(config, data, frozen, purifier),
    }


@pytest.mark.parametrize("name", ["encoder", "purifier", "mapper"])
def test_a_resumed_stage_repeats_every_bit(small, training_data, tmp_path, name):
    make = stages(small, training_data)[name]
    whole = run_stage(make(), Place(tmp_path / "whole"))
    run_stage(make(), Place(tmp_path / "parts", stop_after=1))
    resumed = run_stage(make(), Place(tmp_path / "parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    fresh = make().module.state_dict()
    moved = [key for key, value in whole.state_dict().items() if not torch.equal(value, fresh[key])]
    assert moved


def test_a_checkpoint_in_every_step_changes_nothing(small, training_data, tmp_path):
    make = stages(small, training_data)["encoder"]
    rare = run_stage(make(), Place(tmp_path / "rare"))
    often = run_stage(make(), Place(tmp_path / "often", checkpoint_seconds=0.0))
    assert all(torch.equal(a, b) for a, b in zip(rare.parameters(), often.parameters(), strict=True))


def test_a_checkpoint_of_another_configuration_is_refused(small, training_data, tmp_path):
    run_stage(EncoderStage(small, training_data), Place(tmp_path, stop_after=1))
    other = replace(small, seed=1)
    with pytest.raises(ValueError, match="configuration changed"):
        run_stage(EncoderStage(other, training_data), Place(tmp_path))


def test_digests_depend_on_earlier_stages_alone():
    later = replace(DEMO, mapper=replace(DEMO.mapper, blocks=2))
    assert later.digest("purifier") == DEMO.digest("purifier")
    assert later.digest("mapper") != DEMO.digest("mapper")
    assert replace(DEMO, seed=5).digest("encoder") != DEMO.digest("encoder")
    assert quick(DEMO).digest() != DEMO.digest()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
    assert load_checkpoint(tmp_path / "none", "run") is None


def test_the_rate_warms_up_and_falls_to_two_percent():
    schedule = Schedule(steps=1000, batch=1, rate=0.5, warmup=10)
    assert rate(schedule, 0) == pytest.approx(0.05)
    assert rate(schedule, 500) == pytest.approx(0.5 * 0.51)
    assert rate(schedule, 1000) == pytest.approx(0.5 * 0.02)
    assert all(rate(schedule, step) >= rate(schedule, step + 1) for step in range(10, 1000))


def test_the_average_follows_its_formula(small, training_data):
    trainer = _Trainer(EncoderStage(small, training_data))
    average = trainer.average.class_features.clone().double()
    for step in range(3):
        trainer.advance()
        decay = min(0.99, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.stage.module.class_features.detach().double()
    torch.testing.assert_close(trainer.average.class_features.double(), average, rtol=0, atol=1e-6)


def test_grounds_get_their_texture_during_training(small, training_data):
    config = replace(
        small,
        encoder=replace(
            small.encoder, plain=0.2, full=0.6, schedule=replace(small.encoder.schedule, steps=100)
        ),
    )
    stage = EncoderStage(config, training_data)
    assert [stage.texture(step) for step in (0, 20, 40, 60, 99)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_streams_are_independent():
    device = torch.device("cpu")
    draws = {
        tuple(torch.randn(4, generator=step_generator(seed, name, step, device)).tolist())
        for seed in (0, 1)
        for name in ("mapper", "purifier", "scores")
        for step in (0, 1)
    }
    assert len(draws) == 12
    again = torch.randn(4, generator=step_generator(0, "mapper", 0, device))
    assert tuple(again.tolist()) in draws
    assert math.isfinite(again.sum())
