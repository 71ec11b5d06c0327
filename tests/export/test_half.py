"""Weights stored as float16: the same bits as an engine of the rounded weights in float32, in half the bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export import classes, networks
from export.__main__ import main
from export.class_rows import ClassRows
from export.engine_recipe import find_recipe
from export.half import round_weights, widened
from export.options import Options, customise, describe
from export.quantise import add_precisions
from export.recipe import load_recipe
from export.reduce import Options as Reductions
from fsfast import SmoothedEncoder
from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.engine.classes import load_classes
from fsfast.engine.engine import load_engine
from fsfast.engine.onnx_arrays import stored_arrays
from fsfast.engine.onnx_bytes import external_tensors
from fsfast.models.checkpoints.networks import PURIFIERS
from fsfast.models.folded import load_folded
from fsfast.report.examples import FOLDER
from tests.export.test_drunet_engine import NARROW, write
from tests.export.test_recipes import CONFIG, RECIPE, WEIGHTS
from train.checkpoint import save_weights

STAGES = ("purifier", "encoder")
FILE = "weights.float32.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both networks as "half", and what that engine is made into with --store float32 as "rounded"."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "narrow.toml").write_text(RECIPE.replace("sigma =", 'store = "float16"\nsigma ='))
    save_weights(folder / "encoder.safetensors", WEIGHTS, "digest", 0.25)
    write(folder / "purifier.safetensors")
    files = ["--encoder", str(folder), "--purifier", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "narrow", CONFIG)
        patch.setitem(PURIFIERS, "drunet-light", NARROW)
        assert main([str(folder / "narrow.toml"), *files, "--out", str(folder / "half")]) == 0
    rounded = [str(folder / "half"), "--store", "float32", "--out", str(folder / "rounded")]
    assert main(rounded) == 0
    return folder


@pytest.fixture(scope="module")
def engines(folder):
    return load_engine(folder / "half"), load_engine(folder / "rounded")


@pytest.mark.parametrize("stage", STAGES)
def test_onnx_runtime_computes_the_bits_of_the_rounded_weights(engines, stage):
    x = load_file(engines[0].path / "golden.safetensors")[f"{stage}.input"].numpy()
    x, answers = np.concatenate([x, 0.5 * x, -x]), []
    for engine in engines:
        session = open_session(engine.graph(stage, "float32"), engine.buffer(FILE))
        (answer,) = session.run(None, {engine.manifest.stages[stage]["float32"].input: x})
        answers.append(answer)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_features_are_those_of_the_rounded_weights(folder, backend, picture):
    answers = []
    for name in ("half", "rounded"):
        with SmoothedEncoder(folder / name, backend=backend) as encoder:
            answers.append(encoder.encode([picture], seeds=[1]).features)
    np.testing.assert_array_equal(*answers)


def test_every_weight_is_stored_in_two_bytes(engines):
    half, rounded = (load_file(engine.path / FILE) for engine in engines)
    assert half.keys() == rounded.keys()
    for name, tensor in half.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor.float(), rounded[name]), name
    assert load_file(engines[0].path / "golden.safetensors").keys() == {
        f"{stage}.{end}" for stage in STAGES for end in ("input", "output")
    }


def test_torch_has_the_rounded_weights_in_float32(engines):
    half, rounded = (load_folded(engine) for engine in engines)
    for stage in STAGES:
        for name, tensor in half[stage].state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, rounded[stage].state_dict()[name])


def test_the_engine_says_so_once(engines):
    half, _ = engines
    for row in half.manifest.record["provenance"]:
        assert row["source"].count("; rounded to float16") == 1
    assert (half.path / "model-card.md").read_text().count("; rounded to float16 |") == 2


def test_an_engine_keeps_how_it_stores(folder):
    assert find_recipe(str(folder / "half")).store == "float16"
    assert find_recipe(str(folder / "rounded")).store == "float32"
    recipe = load_recipe(str(folder / "narrow.toml"))
    assert ", stored as float16" in describe(recipe)
    assert customise(recipe, Options(store="float32")).store == "float32"


def test_rows_of_classes_are_stored_so_too(folder, tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, CONFIG.width)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    words = ["--classes", str(tmp_path / "rows.npy"), "--names", str(tmp_path / "names.txt"), "--linear"]
    assert classes.main([str(folder / "half"), *words, "--out", str(tmp_path / "engine")]) == 0
    assert load_file(tmp_path / "engine/classes.safetensors")["class_features"].dtype == torch.float16
    engine = load_engine(tmp_path / "engine")
    head = load_classes(engine)
    assert head.features.dtype == np.float32
    np.testing.assert_array_equal(head.features, rows.astype(np.float16))
    assert engine.manifest.record["provenance"][-1]["source"].endswith("); rounded to float16")


@pytest.mark.parametrize(("value", "kind"), [(7e4, "linear"), (1e-9, "directions")])
def test_rows_that_float16_cannot_hold_are_refused(value, kind):
    rows = np.array([[1, 1], [value, 0]], np.float32)
    head = ClassRows(("a", "b"), rows, kind, "a test")
    assert head.stored("float32") is head
    with pytest.raises(ValueError, match=r"got others in row 1 \(counted from 0\); store float32"):
        head.stored("float16")


def test_another_type_is_refused(folder, tmp_path):
    (tmp_path / "a.toml").write_text(RECIPE.replace("sigma =", 'store = "bfloat16"\nsigma ='))
    with pytest.raises(ValueError, match="wanted store as one of float32, float16, got 'bfloat16'"):
        load_recipe(str(tmp_path / "a.toml"))


def test_weights_beyond_float16_are_refused():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 1] = -7e4
    with pytest.raises(ValueError, match="at most 65504 to store them as float16, got 70000 in weight"):
        round_weights(layer)


def test_quantising_begins_from_float32(engines, tmp_path):
    """8-bit graphs are those of the rounded weights; the purifier's convolutions are among them."""
    made = []
    for engine in engines:
        path = tmp_path / engine.path.name
        options = Reductions(("int8",), samples=4, accept=0.01)
        add_precisions(engine.path, FOLDER, path, options, report=lambda line: None)
        made.append(load_engine(path))
    half, rounded = (load_file(engine.path / "weights.int8.safetensors") for engine in made)
    assert half.keys() == rounded.keys()
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in half.items())
    assert made[0].manifest.stages["purifier"]["int8"].file == "purifier.int8.onnx"
    stored = load_file(engines[0].path / FILE)
    convolutions = {
        name for name, tensor in stored.items() if tensor.ndim == 4 and name.startswith("purifier.")
    }
    eights = {name.removesuffix(".int8") for name, tensor in half.items() if tensor.dtype == torch.int8}
    # The first layer sees pixels, in squares.
    assert convolutions - eights == {"purifier.stem.weight"}


def test_what_is_stored_in_float32_is_not_widened(engines):
    graph, weights = engines[1].graph("encoder", "float32"), engines[1].buffer(FILE)
    assert widened(graph, weights) == (graph, weights)
    wide, content = widened(engines[0].graph("encoder", "float32"), engines[0].buffer(FILE))
    assert {tensor.dtype for tensor in external_tensors(wide)} == {"float32"}
    wanted = stored_arrays(graph, weights)
    got = stored_arrays(wide, content)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)
