"""A DRUNet as an engine's purifier, from files, from training runs and from the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export import networks, shipped
from export.__main__ import main
from export.options import Options, customise
from export.published import Published
from export.recipe import load_recipe
from fsfast import SmoothedEncoder
from fsfast.engine.engine import load_engine
from fsfast.models import DRUNET_LIGHT, DRUNet, DRUNetConfig
from fsfast.models.checkpoints.networks import PURIFIERS
from fsfast.models.folded import load_folded
from tests.export.test_recipes import CONFIG, RECIPE, WEIGHTS
from train.checkpoint import save_weights

NARROW = DRUNetConfig(widths=(8, 16), blocks=(1, 2))


def write(path, config=NARROW, sigma=0.25, dtype=torch.float32):
    """Weights as a training run leaves them."""
    torch.manual_seed(0)
    network = DRUNet(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    save_weights(path, network.to(dtype).state_dict(), "digest", sigma)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recipe around a narrow encoder, weights of both networks, and the engine of them."""
    folder = tmp_path_factory.mktemp("drunet")
    (folder / "narrow.toml").write_text(RECIPE)
    save_weights(folder / "encoder.safetensors", WEIGHTS, "digest", 0.25)
    write(folder / "purifier.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "narrow", CONFIG)
        patch.setitem(PURIFIERS, "drunet-light", NARROW)
        assert main([*command(folder), "--out", str(folder / "engine")]) == 0
    return folder


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    monkeypatch.setitem(PURIFIERS, "drunet-light", NARROW)


def command(folder):
    """A plain file: its names show what it is."""
    files = ["--encoder", str(folder / "encoder.safetensors"), "--purifier", str(folder)]
    return [str(folder / "narrow.toml"), *files]


def test_it_is_on_the_encoders_grid_and_says_what_it_is(folder):
    manifest = load_engine(folder / "engine").manifest
    assert manifest.name == "narrow+purifier"
    assert manifest.grid.size == (12, 12) == manifest.encoder_size
    said = manifest.record["architecture"]["purifier"]
    assert said == {"type": "drunet", "config": {"widths": [8, 16], "blocks": [1, 2], "unshuffle": 2}}
    (source, _) = (row["source"] for row in manifest.record["provenance"])
    assert source.startswith("fsfast layout: purifier.safetensors (sha256 ")
    assert all(row["max_abs"] < 1e-5 for row in manifest.stages["purifier"]["float32"].parity)


def test_it_is_rebuilt_in_torch(folder):
    engine = load_engine(folder / "engine")
    loaded = load_folded(engine)["purifier"]
    assert isinstance(loaded, DRUNet)
    assert loaded.config == NARROW
    assert not loaded.training
    wanted = Published(customise(load_recipe(command(folder)[0]), options(folder))).load("purifier")
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("blocks", [[1, 10**6], "many", [-1, 2]])
def test_a_forged_architecture_is_refused(folder, blocks):
    """Before a million blocks are made."""
    from fsfast.errors import EngineError

    engine = load_engine(folder / "engine")
    engine.manifest.record["architecture"]["purifier"]["config"]["blocks"] = blocks
    with pytest.raises(EngineError, match="the purifier cannot be built from its architecture"):
        load_folded(engine, stages=("purifier",))


def test_every_back_end_serves_it(folder, picture):
    answers = []
    for how in ({"backend": "onnxruntime"}, {"backend": "openvino"}):
        with SmoothedEncoder(folder / "engine", **how) as encoder:
            answers.append(encoder.encode([picture], seeds=[1]).features)
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=1e-4)


def options(folder, **changes):
    given = {"encoder": str(folder / "encoder.safetensors"), "purifier": str(folder)}
    return Options(**(given | changes))


def test_another_sigma_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"trained for sigma = 0.25, the engine is for 0.5; pass --sigma 0.25"
    ):
        Published(customise(load_recipe(command(folder)[0]), options(folder, sigma=0.5)))


def test_a_grid_that_it_cannot_halve_is_refused(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(PURIFIERS, "drunet-light", DRUNET_LIGHT)
    chosen = customise(load_recipe(command(folder)[0]), options(folder, purifier="drunet-light"))
    with pytest.raises(ValueError, match="drunet-light wants a grid of multiples of 8, got 12×12"):
        networks.check_networks(chosen)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_the_grid_stays_whatever_names_the_file(kind, folder, tmp_path):
    """As a preset's, by its shapes, and in the folder of a run."""
    path = folder / "purifier.safetensors"
    if kind == "pt":
        torch.save(DRUNet(NARROW).state_dict(), path := tmp_path / "purifier.pt")
    for purifier in (str(path), f"drunet-light={path}"):
        chosen = customise(load_recipe(command(folder)[0]), options(folder, purifier=purifier))
        assert (chosen.purifier, chosen.grid.size) == ("drunet-light", (12, 12))


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    """A folder of engines with purifiers for two noise levels, as the package has it."""
    there = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "narrow", CONFIG)
        patch.setitem(PURIFIERS, "drunet-light", NARROW)
        for name, sigma in (("photo", 0.25), ("photo-0.12", 0.12)):
            weights = write(there / f"{sigma}.safetensors", sigma=sigma)
            run = [*command(folder)[:-1], str(weights), "--sigma", str(sigma)]
            assert main([*run, "--name", name, "--out", str(there / name)]) == 0
    return there


@pytest.fixture
def in_package(built, monkeypatch):
    monkeypatch.setattr(shipped, "BUILT_IN", built)
    return built


@pytest.mark.parametrize(("sigma", "engine"), [(0.12, "photo-0.12"), (0.25, "photo")])
def test_the_packages_purifier_is_that_of_the_sigma(sigma, engine, folder, in_package):
    chosen = customise(load_recipe(command(folder)[0]), options(folder, purifier="photo", sigma=sigma))
    assert (chosen.name, chosen.purifier, chosen.grid.size) == (
        "narrow+drunet-light",
        "drunet-light",
        (12, 12),
    )
    source = Published(chosen)
    assert isinstance(source.load("purifier"), DRUNet)
    assert source.provenance("purifier")[0].startswith(f"the engine {engine} (digest ")


def test_an_engines_purifier_for_another_sigma_or_none_is_refused(folder, built):
    recipe, path = load_recipe(command(folder)[0]), f"drunet-light={built / 'photo-0.12'}"
    with pytest.raises(
        ValueError, match=r"purifier of the engine \S+ is for sigma = 0.12, the new engine is for 0.25"
    ):
        Published(customise(recipe, options(folder, purifier=path)))
    with pytest.raises(ValueError, match=r"wanted a mapper in the engine \S+, got purifier, encoder"):
        Published(customise(recipe, options(folder, mapper=str(built / "photo"))))


def test_name_and_card_are_what_was_said(folder, tmp_path):
    (tmp_path / "said.md").write_text("## Training\n\nAn hour.\n")
    run = [*command(folder), "--name", "mine", "--card", str(tmp_path / "said.md")]
    assert main([*run, "--out", str(tmp_path / "engine")]) == 0
    assert load_engine(tmp_path / "engine").manifest.name == "mine"
    assert (tmp_path / "engine" / "model-card.md").read_text().endswith("\n## Training\n\nAn hour.\n")
    assert main([*command(folder), "--name", "two words", "--out", str(tmp_path / "other")]) == 2
    assert main([*command(folder), "--card", "none.md", "--out", str(tmp_path / "other")]) == 2


def test_at_another_sigma_there_is_none(folder, in_package, monkeypatch):
    recipe = load_recipe(command(folder)[0])
    with pytest.raises(
        ValueError, match=r"photo is made for sigma = 0.12 or 0.25, got 0.5; choose with --sigma"
    ):
        customise(recipe, options(folder, purifier="photo", sigma=0.5))
    monkeypatch.setattr(shipped, "BUILT_IN", in_package / "empty")
    with pytest.raises(ValueError, match="comes without the purifier photo"):
        customise(recipe, options(folder, purifier="photo"))


def test_in_the_place_of_another_purifier_it_is_on_the_encoders_grid(folder, in_package, resized_path):
    """The engine's purifier has a grid of 40×56 before an encoder of 64×64."""
    from export.engine_recipe import find_recipe

    chosen = customise(find_recipe(str(resized_path)), Options(purifier="photo"))
    assert chosen.grid.size == (64, 64)
