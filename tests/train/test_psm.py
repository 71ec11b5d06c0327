"""python -m train psm: a few steps on a small encoder; the weights become an engine, a killed run repeats every bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from export import networks
from export.__main__ import main as export
from fsfast.engine import load_engine
from fsfast.images import Grid
from fsfast.models import UNET_TINY, UNet
from tests.models.published import tower
from tests.test_recipes import CONFIG, RECIPE
from train.__main__ import main
from train.images import ImageFolder
from train.loop import Place, run_stage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe, the weights of its encoder, and images of several sizes."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    monkeypatch.setattr("export.options.PURIFIED_SIDE", 16)
    (tmp_path / "narrow.toml").write_text(RECIPE)
    save_file(
        {name: 0.3 * tensor for name, tensor in tower(CONFIG).items()}, tmp_path / "encoder.safetensors"
    )
    (tmp_path / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, place in enumerate(["a.png", "b.jpg", "more/c.png", "more/d.PNG", "e.webp"]):
        pixels = rng.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / place)
    return tmp_path


def command(folder, out, *more):
    return [
        *("psm", "--recipe", str(folder / "narrow.toml"), "--encoder", str(folder / "encoder.safetensors")),
        *("--data", str(folder / "images"), "--out", str(folder / out), "--device", "cpu", "--noises", "2"),
        *(
            "--purifier-steps",
            "3",
            "--purifier-batch",
            "2",
            "--mapper-steps",
            "3",
            "--mapper-batch",
            "2",
            *more,
        ),
    ]


@pytest.mark.parametrize("more", [(), ("--bf16", "--checkpointing")], ids=["float32", "bf16"])
def test_a_run_becomes_an_engine(folder, more):
    assert main(command(folder, "run", "--purifier", "unet-tiny", *more)) == 0
    run = folder / "run"
    for stage in ("purifier", "mapper"):
        with safe_open(run / f"{stage}.safetensors", framework="numpy") as file:
            assert json.loads(file.metadata()["training"])["sigma"] == 0.25
        assert all(t.dtype == torch.float32 for t in load_file(run / f"{stage}.safetensors").values())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["purifier", "mapper"]
    files = ["--encoder", str(folder / "encoder.safetensors"), "--purifier", str(run), "--mapper", str(run)]
    recipe = str(folder / "narrow.toml")
    assert export([recipe, *files, "--out", str(folder / "engine")]) == 0
    assert list(load_engine(folder / "engine").manifest.stages) == ["purifier", "encoder", "mapper"]
    assert export([recipe, *files, "--sigma", "0.5", "--out", str(folder / "other")]) == 2


def test_a_killed_run_repeats_every_bit(folder, monkeypatch):
    arguments = ("--purifier", "unet-tiny")
    assert main(command(folder, "whole", *arguments)) == 0

    def killed(stage, place):
        return run_stage(stage, Place(place.folder, stop_after=1))

    with monkeypatch.context() as patch:
        patch.setattr("train.psm.run_stage", killed)
        assert main(command(folder, "parts", *arguments)) == 0
    # The mapper of the killed run was trained behind an unfinished purifier.
    (folder / "parts" / "mapper.checkpoint.pt").unlink()
    assert main(command(folder, "parts", *arguments)) == 2
    assert main(command(folder, "parts", *arguments, "--resume")) == 0
    for stage in ("purifier", "mapper"):
        whole, parts = (load_file(folder / run / f"{stage}.safetensors") for run in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    unet = UNet(UNET_TINY)
    x_t = torch.randn(2, 3, 16, 16)
    gradients = []
    for unet.checkpointing in (False, True):
        unet.zero_grad()
        unet(x_t, 145).square().sum().backward()
        gradients.append([p.grad.clone() for p in unet.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_every_image_comes_once_per_pass(folder):
    data = ImageFolder(folder / "images", Grid(16, 16, "crop"), 0, torch.device("cpu"))
    assert len(data.paths) == 5
    images = torch.cat([data.batch(number, 2) for number in range(5)])
    assert images.shape == (10, 3, 16, 16)
    assert torch.equal(images, images.round())
    for first in (0, 5):
        assert len({image.numpy().tobytes() for image in images[first : first + 5]}) == 5
    assert torch.equal(data.batch(3, 2), data.batch(3, 2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--data", "nowhere"), "wanted a folder of images"),
        (("--data", "."), "found none"),
        (("--encoder", "nowhere.pt"), "found nothing"),
        (("--recipe", "demo"), "takes all weights from the run"),
        (("--noises", "0"), "at least 1"),
    ],
    ids=["data", "empty", "encoder", "recipe", "noises"],
)
def test_refusals_in_one_line(folder, change, says, capsys, monkeypatch):
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    assert main([*command(folder, "run"), *change]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
