"""A low-rank mapper as an engine's mapper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export import networks
from export.__main__ import main
from export.options import Options, customise
from export.published import Published
from export.recipe import load_recipe
from fsfast import SmoothedEncoder
from fsfast.engine.engine import load_engine
from fsfast.errors import EngineError
from fsfast.models import LowRankMapper
from fsfast.models.folded import load_folded
from tests.export.test_recipes import CONFIG, RECIPE, WEIGHTS
from train.checkpoint import save_weights


def mapper(dim=64):
    torch.manual_seed(0)
    module = LowRankMapper(dim, 5).requires_grad_(False)
    torch.nn.init.normal_(module.up, std=0.3)
    return module


def write(path, dim=64, **about):
    """Weights as `python -m train photo-mapper` leaves them."""
    save_weights(path, mapper(dim).state_dict(), "digest", 0.25, about)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recipe around a narrow encoder, its weights and a mapper's, and the engines of them."""
    folder = tmp_path_factory.mktemp("low-rank")
    (folder / "narrow.toml").write_text(RECIPE)
    save_weights(folder / "encoder.safetensors", WEIGHTS, "digest", 0.25)
    write(folder / "mapper.safetensors")
    command = [str(folder / "narrow.toml"), "--encoder", str(folder), "--n0", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "narrow", CONFIG)
        assert main([*command, "--out", str(folder / "without")]) == 0
        assert main([*command, "--mapper", str(folder), "--out", str(folder / "engine")]) == 0
    return folder


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)


def test_it_says_what_it_is_and_is_rebuilt_in_torch(folder):
    engine = load_engine(folder / "engine")
    said = engine.manifest.record["architecture"]["mapper"]
    assert said == {"type": "low_rank_mapper", "config": {"dim": 64, "rank": 5}}
    loaded = load_folded(engine, stages=("mapper",))["mapper"]
    assert isinstance(loaded, LowRankMapper)
    assert torch.equal(loaded.up, mapper().up)


def test_every_back_end_serves_what_it_refines(folder, picture):
    """One sample: the direction of z + UVz, z being the one that the engine without it serves."""
    with SmoothedEncoder(folder / "without") as encoder:
        z = torch.from_numpy(encoder.encode([picture], n0=1, seeds=[1]).features)
    wanted = torch.nn.functional.normalize(mapper()(z), dim=-1)
    for backend in ("onnxruntime", "openvino"):
        with SmoothedEncoder(folder / "engine", backend=backend) as encoder:
            found = encoder.encode([picture], n0=1, seeds=[1]).features
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
        assert np.abs(found - torch.nn.functional.normalize(z, dim=-1).numpy()).max() > 1e-2
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_an_engine_that_has_one_keeps_it(folder, tmp_path):
    out = tmp_path / "engine"
    assert main([str(folder / "engine"), "--n0", "3", "--store", "float16", "--out", str(out)]) == 0
    engine = load_engine(out)
    assert engine.manifest.n0 == 3
    kept = load_folded(engine, stages=("mapper",))["mapper"].up
    assert torch.equal(kept, mapper().up.half().float())


def test_one_for_other_features_is_refused(folder, tmp_path):
    given = {"encoder": str(folder), "mapper": str(write(tmp_path / "m.safetensors", dim=32))}
    recipe = load_recipe(str(folder / "narrow.toml"))
    with pytest.raises(ValueError, match=r"wanted a mapper for the 64 channels .* got one for 32"):
        Published(customise(recipe, Options(**given)))
    with pytest.raises(ValueError, match=r"trained for sigma = 0.25, the engine is for 0.5"):
        Published(customise(recipe, Options(str(folder), mapper=str(folder), sigma=0.5)))
    path = write(tmp_path / "tokens.safetensors", output="tokens")
    with pytest.raises(ValueError, match="was trained on the output tokens, the engine's is penultimate"):
        Published(customise(recipe, Options(str(folder), mapper=str(path))))


@pytest.mark.parametrize("change", [{"rank": 4}, {"rank": 0}, {"rank": 10**9}, {"dim": 10**9}, {"rank": "5"}])
def test_a_forged_architecture_is_refused(folder, change):
    engine = load_engine(folder / "engine")
    engine.manifest.record["architecture"]["mapper"]["config"] |= change
    with pytest.raises(EngineError, match="the mapper cannot be built from its architecture"):
        load_folded(engine, stages=("mapper",))
