"""The photo engine's purifier: crops, both parts of its training, runs that go on."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from fsfast.models import DRUNet, DRUNetConfig, EfficientNet, EfficientNetConfig
from train.config import Schedule
from train.loop import Place
from train.photos.assembling import Picture
from train.photos.crops import RandomCrops
from train.photos.purifier import (
    FrozenClassifier,
    PurifierConfig,
    Reconstruction,
    Robustness,
    charbonnier,
    train_purifier,
)
from train.photos.run import main

CPU = torch.device("cpu")
TINY = PurifierConfig(
    sigma=0.25,
    unet=DRUNetConfig(widths=(4, 8), blocks=(1, 1)),
    reconstruction=Schedule(steps=2, batch=4, rate=1e-3, warmup=1),
    robustness=Schedule(steps=3, batch=2, rate=1e-3, warmup=1),
    patch=16,
)


def data_folder(folder: Path, splits: dict[str, tuple[str, str]]) -> Path:
    """A folder as `photo-data` makes it: name → split and kind."""
    rows = []
    for i, (name, (split, kind)) in enumerate(splits.items()):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(folder / name)
        rows.append(Picture(name, name, "p", "1", "CC0-1.0", f"{i:064x}", split, kind, 160, 120, 0))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    return folder


@pytest.fixture
def folder(tmp_path):
    splits = {f"pictures/photograph/{i}.png": ("train", "photograph") for i in range(3)}
    splits |= {"pictures/drawing/a.png": ("train", "drawing"), "held-out/0.png": ("held-out", "photograph")}
    return data_folder(tmp_path / "data", splits)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=32, stem=8, width=16, stages=((1, 3, 2, 1, 8), (1, 3, 2, 2, 8), (1, 3, 2, 2, 8))
    )
    features = EfficientNet(config).features("tokens")
    rows = torch.randn(5, 16)
    return FrozenClassifier(features, (0.5,) * 3, (0.5,) * 3, rows, torch.zeros(5))


def test_crops_depend_on_seed_and_number_alone(folder):
    crops, again = RandomCrops(folder, 0, CPU), RandomCrops(folder, 0, CPU)
    first = crops.batch(3, 4, 24)
    assert first.shape == (4, 3, 24, 24)
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, first.round())
    assert torch.equal(first, again.batch(3, 4, 24))
    assert not torch.equal(first, crops.batch(4, 4, 24))
    assert not torch.equal(first, RandomCrops(folder, 1, CPU).batch(3, 4, 24))
    assert crops.patches(0, 6, 8, 24).shape == (6, 3, 8, 8)


def test_held_out_pictures_are_not_read(folder):
    (folder / "held-out" / "0.png").unlink()
    RandomCrops(folder, 0, CPU).batch(0, 2, 16)


def test_a_folder_without_photographs_is_refused(tmp_path):
    there = data_folder(tmp_path, {"pictures/drawing/a.png": ("train", "drawing")})
    with pytest.raises(ValueError, match="wanted photographs for training, found none"):
        RandomCrops(there, 0, CPU)


def test_transparent_pictures_stand_on_white(folder):
    Image.new("RGBA", (160, 120), (0, 0, 0, 0)).save(folder / "pictures/drawing/a.png")
    for i in range(3):
        Image.new("RGB", (160, 120), "white").save(folder / f"pictures/photograph/{i}.png")
    # Brightness is drawn from 0.75 to 1.25.
    assert RandomCrops(folder, 0, CPU).batch(0, 8, 16).min() >= 0.75 * 255 - 1


def test_a_perfect_purifier_has_no_robustness_loss(folder, encoder):
    data = RandomCrops(folder, 0, CPU)
    stage = Robustness(TINY, data, DRUNet(TINY.unet), encoder)
    stage._purified = lambda step, clean: clean / 255.0
    loss, shown = stage.loss(0)
    assert loss.item() == pytest.approx(charbonnier(torch.zeros(1), torch.zeros(1)).item(), abs=1e-5)
    assert shown["agreement"] == 1.0
    assert shown["cosine"] == pytest.approx(1.0, abs=1e-6)


def test_both_parts_have_gradients_for_every_weight(folder, encoder):
    torch.manual_seed(0)
    data, unet = RandomCrops(folder, 0, CPU), DRUNet(TINY.unet)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for stage in (Reconstruction(TINY, data, unet), Robustness(TINY, data, unet, encoder)):
        unet.zero_grad()
        stage.loss(0)[0].backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unet.parameters()), stage.name


class Killed(RandomCrops):
    """Crops that end the process at the second batch that is asked for."""

    left = 1

    def batch(self, number, count, side):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().batch(number, count, side)


def test_a_killed_run_goes_on_and_repeats_every_bit(folder, encoder, tmp_path):
    data = RandomCrops(folder, 0, CPU)
    whole = train_purifier(TINY, data, encoder, Place(tmp_path / "whole"), "encoder")
    place = Place(tmp_path / "parts", checkpoint_seconds=0.0)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            train_purifier(TINY, Killed(folder, 0, CPU), encoder, place, "encoder")
    parts = train_purifier(TINY, data, encoder, place, "encoder")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    path = tmp_path / "parts" / "purifier.safetensors"
    assert all(torch.equal(load_file(path)[k], v.contiguous()) for k, v in whole.state_dict().items())
    with safe_open(path, "pt") as file:
        assert '"sigma": 0.25' in file.metadata()["training"]


def test_other_robustness_keeps_the_reconstruction_and_other_pictures_do_not(folder, encoder, tmp_path):
    data = RandomCrops(folder, 0, CPU)
    first = Reconstruction(TINY, data, DRUNet(TINY.unet)).digest
    changed = replace(TINY, classes=0.7)
    assert Reconstruction(changed, data, DRUNet(TINY.unet)).digest == first
    assert Robustness(changed, data, DRUNet(TINY.unet), encoder).digest != first
    assert Reconstruction(replace(TINY, sigma=0.12), data, DRUNet(TINY.unet)).digest != first
    train_purifier(TINY, data, encoder, Place(tmp_path / "run"), "encoder")
    with pytest.raises(ValueError, match="the weights changed"):
        train_purifier(TINY, data, encoder, Place(tmp_path / "run"), "another encoder")


def test_another_sigma_begins_with_these_weights(folder, encoder, tmp_path):
    data = RandomCrops(folder, 0, CPU)
    first = train_purifier(TINY, data, encoder, Place(tmp_path / "one"), "encoder")
    few = replace(TINY, sigma=0.12, reconstruction=replace(TINY.reconstruction, steps=0))
    few = replace(few, robustness=replace(TINY.robustness, rate=0.0))
    start = ("sha256", first.state_dict())
    second = train_purifier(few, data, encoder, Place(tmp_path / "two"), "encoder", start)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_command_says_what_it_wants(folder, tmp_path, capsys):
    run = ["--data", str(tmp_path / "none"), "--encoder", "no.pth", "--out", str(tmp_path / "run")]
    assert main(run) == 2
    assert "no.pth" in capsys.readouterr().err
    assert main([*run, "--robustness-steps", "0"]) == 2
    assert "wanted at least 1 step of each part" in capsys.readouterr().err
    for loss in ("cosine=1", "pooled", "pooled=-1"):
        with pytest.raises(SystemExit):
            main([*run, "--loss", loss])
        assert "wanted" in capsys.readouterr().err
