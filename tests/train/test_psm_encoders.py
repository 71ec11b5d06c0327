"""python -m train psm behind every kind of encoder: recipes of other families, engines, modules of one's own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from export.__main__ import main as export
from fsfast import SmoothedEncoder
from fsfast.engine.engine import load_engine
from fsfast.models.folded import load_folded
from tests.export.test_family_recipes import recipe_of
from tests.models import families
from train.__main__ import main
from train.loop import run_stage

SIDE = 14


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def member(name, folder):
    """A small member of a family, whose channels divide into a mapper's heads: its recipe and its weights."""
    family = families.FAMILIES[name]
    family = replace(family, config=replace(family.config, width=64, embed_dim=64))
    save_file(families.weights(family), folder / "encoder.safetensors")
    return recipe_of(family, folder)


def train(folder, out, *more):
    few = ("--purifier-batch", "1", "--mapper-steps", "2", "--mapper-batch", "2", "--noises", "2")
    images = ("--data", str(folder / "images"), "--device", "cpu")
    return main(["psm", *images, "--out", str(folder / out), *few, *more])


@pytest.fixture
def stages(monkeypatch):
    """The stages that are trained."""
    seen = []

    def remembering(stage, place):
        seen.append(stage)
        return run_stage(stage, place)

    monkeypatch.setattr("train.psm.run_stage", remembering)
    return seen


def certified(engine):
    """Certify a picture; returns what the vanilla encoder says of it."""
    with SmoothedEncoder(engine) as encoder:
        image = np.random.default_rng(1).integers(0, 256, (*encoder.grid.size, 3), np.uint8)
        certificate = encoder.certify(image, n=60)
        assert encoder.verify(certificate, image)
        return image, encoder.clean(image)[0]


def test_a_recipe_of_another_family(folder, stages):
    """Trained, exported by the same recipe, certified; the loss is of the features that the engine serves."""
    recipe = member("SigLIP", folder)
    weights = str(folder / "encoder.safetensors")
    assert train(folder, "run", "--recipe", recipe, "--encoder", weights) == 0
    added = ["--encoder", weights, "--mapper", str(folder / "run")]
    assert export([recipe, *added, "--out", str(folder / "engine")]) == 0
    image, clean = certified(folder / "engine")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    (mapper,) = stages
    np.testing.assert_allclose(mapper.common.encoder(pixels)[0, 0], clean, rtol=0, atol=1e-5)
    with safe_open(folder / "run/mapper.safetensors", framework="numpy") as file:
        said = json.loads(file.metadata()["training"])
    assert (said["output"], said["encoder"]["pooling"]) == ("pooled", "map")


def test_an_engine(folder, stages):
    """As by the recipe that it was made of, whose weights the recipe itself names, from where it stands."""
    recipe = member("DINOv3", folder)
    path = folder / "small.toml"
    path.write_text(
        path.read_text().replace("[encoder]\n", '[encoder]\ncheckpoint = "encoder.safetensors"\n')
    )
    bare, mapped = str(folder / "bare"), str(folder / "mapped")
    assert export([recipe, "--out", bare]) == 0
    for out, encoder in (("run", bare), ("alike", recipe)):
        assert train(folder, out, "--encoder", encoder) == 0
    own, other = stages
    assert own.parts["recipe"] == other.parts["recipe"]
    pixels = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(own.common.encoder(pixels), other.common.encoder(pixels), rtol=0, atol=0)
    assert export([bare, "--mapper", str(folder / "run"), "--out", mapped]) == 0
    certified(mapped)


def test_an_engine_with_a_purifier(folder, stages, demo_path, capsys):
    """The mapper is trained behind it; it stays, and helps on images that are held out."""
    few = ("--mapper-steps", "1", "--mapper-batch", "1", "--held-out", "0.5")
    assert train(folder, "run", "--encoder", str(demo_path), *few) == 0
    last = json.loads((folder / "run/log.jsonl").read_text().splitlines()[-1])
    assert list(last) == ["stage", "images", "noisy", "purified", "mapped"]
    assert last["noisy"] < last["purified"] != last["mapped"]
    assert {path.name for path in (folder / "run").glob("*.safetensors")} == {"mapper.safetensors"}
    (mapper,) = stages
    own = load_folded(load_engine(demo_path))["purifier"].state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in mapper.purifier.unet.state_dict().items())
    assert train(folder, "other", "--encoder", str(demo_path), "--purifier-steps", "5") == 2
    assert "stays as it is, got --purifier-steps 5" in capsys.readouterr().err


NETWORKS = """
import torch
from torch import nn

def encoder(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 64, 4, stride=4), nn.Tanh())

def other():
    return encoder(1)

def failing():
    raise RuntimeError("no weights")
"""


def test_a_module_of_ones_own(folder, stages, capsys, monkeypatch):
    """Its engine has a graph alone; the module has to compute the same."""
    (folder / "networks_to_train.py").write_text(NETWORKS)
    monkeypatch.chdir(folder)
    engine = str(folder / "engine")
    made = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--size", "16,16"]
    made = ["torch", "networks_to_train:encoder", *made]
    assert export([*made, "--out", engine]) == 0
    assert train(folder, "run", "--encoder", engine, "--module", "networks_to_train:encoder") == 0
    features = stages[0].common.encoder(torch.zeros(1, 3, 16, 16))
    assert features.shape == (1, 16, 64)
    manifest = load_engine(engine).manifest
    assert stages[0].common.weights == {"encoder": [manifest.files["weights.float32.safetensors"].sha256]}
    assert export([*made, "--mapper", str(folder / "run"), "--out", str(folder / "mapped")]) == 0
    certified(folder / "mapped")
    for module, says in (
        ([], r"came as an ONNX graph (torch 2"),
        (
            ["--module", "networks_to_train:other"],
            "wanted networks_to_train:other to compute what the encoder of",
        ),
        (["--module", "networks_to_train:failing"], "RuntimeError: no weights"),
    ):
        capsys.readouterr()
        assert train(folder, "refused", "--encoder", engine, *module) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_refusals_in_one_line(folder, capsys, demo_path):
    recipe = member("SigLIP", folder)
    weights = str(folder / "encoder.safetensors")
    for arguments, says in (
        ([], "wanted --recipe beside the encoder's weights"),
        (["--encoder", weights], f"got --encoder {weights}"),
        (
            ["--encoder", recipe],
            "wants the encoder's weights with --encoder FILE_OR_DIR; get them as somewhere",
        ),
        (["--recipe", recipe, "--encoder", str(demo_path)], "name it in the place of the recipe"),
        (["--recipe", recipe, "--encoder", weights, "--module", "a:b"], "leave --module a:b out"),
        (["--encoder", str(demo_path), "--output", "pooled"], "has the output tokens+ln_post alone"),
        (["--recipe", "demo"], "takes all weights from elsewhere"),
    ):
        assert train(folder, "refused", *arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_channels_that_are_no_mappers(folder, capsys):
    """What is wanted is said before any image is read."""
    family = families.FAMILIES["SigLIP"]
    save_file(families.weights(family), folder / "encoder.safetensors")
    recipe = recipe_of(family, folder)
    weights = str(folder / "encoder.safetensors")
    (folder / "images/damaged.png").write_text("no image")
    assert train(folder, "run", "--recipe", recipe, "--encoder", weights) == 2
    assert (
        "a mapper wants features of a multiple of 64 channels, the channels of a head, got 32 of small's pooled; choose"
        in capsys.readouterr().err
    )
