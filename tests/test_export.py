"""python -m export: weights once, nothing of the building machine inside, parity measured, errors in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from export.__main__ import main
from export.networks import build_networks
from export.recipe import load_recipe
from fsfast.engine import load_engine

RECIPES = Path(__file__).parent / "data" / "recipes"


def engine_of(path):
    return load_engine(path), {
        name: onnx.load(path / name, load_external_data=False)
        for name in os.listdir(path)
        if name.endswith(".onnx")
    }


@pytest.fixture(params=["demo", "pooled", "resized"])
def path(request, demo_path):
    """Each engine in turn: with everything, alone, and with two sizes."""
    return demo_path if request.param == "demo" else request.getfixturevalue(f"{request.param}_path")


def test_every_weight_is_stored_once_under_its_own_name(path):
    engine, graphs = engine_of(path)
    stored = load_file(path / "weights.float32.safetensors")
    recipe = load_recipe("demo" if path.name == "demo" else str(RECIPES / f"{engine.manifest.name}.toml"))
    states = {
        f"{stage}.{name}": tensor.numpy()
        for stage, network in build_networks(recipe).items()
        for name, tensor in network.module.state_dict().items()
    }
    assert stored.keys() == states.keys()
    for name, value in states.items():
        np.testing.assert_array_equal(stored[name], value)
    inside = sum(len(t.raw_data) for model in graphs.values() for t in model.graph.initializer)
    assert inside < 4096


def test_the_graphs_point_into_the_safetensors_file(path):
    """External data of ONNX is (file, offset, length): what lies there is the tensor of that name."""
    stored = load_file(path / "weights.float32.safetensors")
    content = (path / "weights.float32.safetensors").read_bytes()
    _, graphs = engine_of(path)
    seen = 0
    for name, model in graphs.items():
        stage = name.split(".")[0]
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == "weights.float32.safetensors"
            first, length = int(place["offset"]), int(place["length"])
            value = np.frombuffer(content[first : first + length], np.float32).reshape(list(tensor.dims))
            np.testing.assert_array_equal(value, stored[f"{stage}.{tensor.name}"])
            seen += 1
    assert seen > 30


def test_nothing_of_the_building_machine_is_inside(path):
    for name in os.listdir(path):
        content = (path / name).read_bytes()
        for trace in (
            b"stack_trace",
            b".py",
            b"site-packages",
            str(Path.cwd()).encode(),
            b"/home/",
            b"torch",
        ):
            if name.endswith(".onnx") or trace not in (b"torch", b".py"):
                assert trace not in content, (name, trace)
    for model in engine_of(path)[1].values():
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_parity_is_measured_and_small(path):
    engine, _ = engine_of(path)
    for stage, variants in engine.manifest.stages.items():
        parity = variants["float32"].parity
        assert [row["batch"] for row in parity] == [1, 3, 4], stage
        assert all(row["max_abs"] < 2e-5 and row["cosine"] > 1 - 1e-6 for row in parity), stage


def test_golden_outputs_are_torchs(path):
    engine, _ = engine_of(path)
    golden = load_file(path / engine.manifest.golden)
    recipe = load_recipe("demo" if path.name == "demo" else str(RECIPES / f"{engine.manifest.name}.toml"))
    for stage, network in build_networks(recipe).items():
        with torch.inference_mode():
            wanted = network.module(torch.from_numpy(golden[f"{stage}.input"])).numpy()
        np.testing.assert_allclose(golden[f"{stage}.output"], wanted, atol=1e-5)


def test_a_wrong_graph_fails_the_self_test(path):
    """The golden outputs catch a back end (or an engine) that computes something else."""
    from fsfast.backends import Profile
    from fsfast.backends.onnxruntime import open_graphs
    from fsfast.errors import EngineError
    from fsfast.selftest import check_golden

    engine = load_engine(path)
    stages = tuple(engine.manifest.stages)
    graphs = open_graphs(engine, "float32", stages)
    profile = Profile("onnxruntime", "1", "float32", 2, "cpu", stages)
    assert max(check_golden(engine, graphs, profile).values()) < 1e-5

    class Slightly:
        def run(self, x, out):
            right.run(x, out)
            out *= 1.001

    right = graphs["encoder"]
    with pytest.raises(EngineError, match="encoder"):
        check_golden(engine, {**graphs, "encoder": Slightly()}, profile)


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(pooled_path, tmp_path, capsys):
    recipe = str(RECIPES / "pooled.toml")
    assert main([recipe, "--out", str(tmp_path / "again")]) == 0
    assert "encoder: batch 3" in capsys.readouterr().out
    assert load_engine(tmp_path / "again").digest == load_engine(pooled_path).digest
    assert main([recipe, "--out", str(tmp_path / "again")]) == 2
    assert "--force" in capsys.readouterr().err


def test_the_built_in_engine_comes_from_its_recipe(demo_path):
    record = json.loads((demo_path / "engine.json").read_text())
    recipe = load_recipe("demo")
    assert (record["sigma"], record["n0"], record["name"]) == (recipe.sigma, recipe.n0, "demo")
    assert record["random_weights"] is True
    assert "never trained" in (demo_path / "model-card.md").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sigma = 0.5", ""), "missing key 'sigma'"),
        (("sigma = 0.5", "sigma = 0.5\nmagic = 1"), "unknown key 'magic'"),
        (('preset = "vit-tiny"', 'preset = "vit-huge"'), "vit-huge"),
        (("sigma = 0.5", "sigma = "), "pooled.toml"),
        (('fit = "squash"', 'fit = "stretch"'), "stretch"),
        (("height = 64", "height = 48"), "encoder's input size"),
    ],
    ids=["missing", "unknown", "preset", "toml", "fit", "size"],
)
def test_bad_recipes(tmp_path, capsys, change, says):
    text = (RECIPES / "pooled.toml").read_text()
    (tmp_path / "pooled.toml").write_text(text.replace(*change))
    assert main([str(tmp_path / "pooled.toml"), "--out", str(tmp_path / "engine")]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "engine").exists()


def test_an_unknown_recipe(capsys):
    assert main(["magic"]) == 2
    assert "demo" in capsys.readouterr().err
