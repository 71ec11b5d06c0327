"""fsfast export: weights once, nothing of the building machine inside, parity measured, errors in one line."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from export.__main__ import main
from export.measured import results_markdown
from export.networks import build_networks
from export.parity import check_parity, measure
from export.recipe import load_recipe
from export.recipe_values import NAME
from fsfast.engine.engine import load_engine
from fsfast.errors import EngineError
from fsfast.models.folded import load_folded

RECIPES = Path(__file__).parents[1] / "data" / "recipes"


def engine_of(path):
    return load_engine(path), {
        name: onnx.load(path / name, load_external_data=False)
        for name in os.listdir(path)
        if name.endswith(".onnx")
    }


@pytest.fixture(params=["demo", "random", "pooled", "resized"])
def path(request, demo_path):
    """Each engine in turn: trained, with random weights, of the encoder alone, and with two sizes."""
    return request.getfixturevalue(f"{request.param}_path")


def random_networks(path):
    """What the recipe of an engine with random weights gives."""
    name = load_engine(path).manifest.name
    recipe = load_recipe("demo" if name == "demo" else str(RECIPES / f"{name}.toml"))
    return build_networks(replace(recipe, run=None))


def test_every_weight_is_stored_once_under_its_own_name(path):
    engine, graphs = engine_of(path)
    stored = load_file(path / "weights.float32.safetensors")
    states = {
        f"{stage}.{name}": tensor.numpy()
        for stage, network in random_networks(path).items()
        for name, tensor in network.module.state_dict().items()
    }
    assert stored.keys() == states.keys()
    for name, value in states.items():
        assert stored[name].shape == value.shape
        assert np.array_equal(stored[name], value) == engine.manifest.random_weights or not value.any()
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


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, capsys, monkeypatch):
    """What `measure` finds decides, not only what it prints."""

    def wrong(graph, weights, pairs):
        return [{"batch": len(x), "max_abs": 0.7, "cosine": 0.2} for x, _ in pairs]

    monkeypatch.setattr("export.build.measure", wrong)
    assert main([str(RECIPES / "pooled.toml"), "--out", str(tmp_path / "engine")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in (
        "exported encoder",
        "batch 1",
        "7.0e-01",
        "0.200000000",
        "1e-04 of the largest",
        "constraints-dev",
    ):
        assert part in error
    assert not list(tmp_path.iterdir())


def rows(deviation):
    return [{"batch": 1, "max_abs": deviation, "cosine": 1.0}]


@pytest.mark.parametrize(
    ("largest", "deviation", "says"),
    [
        # Relative to the largest output …
        (50.0, 4.9e-3, ""),
        (50.0, 5.1e-3, "wanted a deviation of at most 5.0e-03"),
        (0.01, 2e-6, "at most 1.0e-06"),
        # … and absolute where there is none.
        (0.0, 0.0, ""),
        (0.0, 9e-5, ""),
        (0.0, 2e-4, "at most 1.0e-04"),
        # A comparison with these is never true, or always.
        (1.0, float("nan"), "got nan"),
        (float("inf"), 0.0, "choose other weights"),
        (float("nan"), 0.0, "choose other weights"),
    ],
)
def test_the_allowed_deviation(largest, deviation, says):
    pairs = [(np.zeros((1, 2), np.float32), np.array([[0.0, largest]], np.float32))]
    if not says:
        check_parity("encoder", rows(deviation), pairs, 1e-4)
        return
    with pytest.raises(EngineError, match=says):
        check_parity("encoder", rows(deviation), pairs, 1e-4)


def test_zeros_are_like_zeros(pooled_path):
    """An untrained mapper's update, for one, may be zero in all elements."""

    class Zeros:
        def get_inputs(self):
            return [type("Input", (), {"name": "x"})]

        def run(self, names, inputs):
            return [np.zeros((2, 3), np.float32)]

    x = np.zeros((2, 3), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.parity.open_session", lambda *_: Zeros())
        same, other = measure(b"", b"", [(x, x), (x, x + 1)])
    assert (same["cosine"], same["max_abs"]) == (1.0, 0.0)
    assert (other["cosine"], other["max_abs"]) == (0.0, 1.0)


def test_golden_outputs_are_torchs(path):
    engine, _ = engine_of(path)
    golden = load_file(path / engine.manifest.golden)
    modules = load_folded(engine)
    assert modules.keys() == engine.manifest.stages.keys()
    for stage, module in modules.items():
        with torch.inference_mode():
            wanted = module(torch.from_numpy(golden[f"{stage}.input"])).numpy()
        np.testing.assert_allclose(golden[f"{stage}.output"], wanted, atol=1e-5)


def test_a_wrong_graph_fails_the_self_test(path):
    """The golden outputs catch a back end (or an engine) that computes something else."""
    from fsfast.backends.cpu import open_graphs
    from fsfast.backends.selftest import check_golden
    from fsfast.engine.profile import Profile, Work

    engine = load_engine(path)
    stages = tuple(engine.manifest.stages)
    graphs = open_graphs(engine, "onnxruntime", Work("float32", stages), threads=1)
    profile = Profile("onnxruntime", "1", "float32", 2, "cpu", stages)
    assert max(check_golden(engine, graphs, profile).deviations.values()) < 1e-5

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


def test_the_built_in_engine_comes_from_its_recipe(demo_path, random_path):
    record = json.loads((demo_path / "engine.json").read_text())
    recipe = load_recipe("demo")
    assert (record["sigma"], record["n0"], record["name"]) == (recipe.sigma, recipe.n0, "demo")
    assert record["random_weights"] is False
    assert all("python -m train demo" in row["source"] for row in record["provenance"])
    card = (demo_path / "model-card.md").read_text()
    results = json.loads((demo_path / "results.json").read_text())
    assert results_markdown(results) in card
    # The graphs are what the recipe gives; only their weights were trained.
    for name, graph in engine_of(demo_path)[1].items():
        random = onnx.load(random_path / name, load_external_data=False)
        assert [node.op_type for node in graph.graph.node] == [node.op_type for node in random.graph.node]


def test_an_engine_with_random_weights_says_so(random_path):
    engine = load_engine(random_path)
    assert engine.manifest.random_weights
    assert "classes" not in engine.manifest.record
    assert "never trained" in (random_path / "model-card.md").read_text()


def test_an_engine_that_is_made_of_it_says_so_too(random_path, tmp_path):
    path = tmp_path / "engine"
    alone = ["--purifier", "none", "--mapper", "none", "--n0", "3"]
    assert main([str(random_path), *alone, "--out", str(path)]) == 0
    manifest = load_engine(path).manifest
    assert manifest.random_weights
    assert (manifest.n0, list(manifest.stages)) == (3, ["encoder"])


def test_an_architecture_that_does_not_fit_is_refused(random_path, tmp_path):
    engine = load_engine(random_path)
    architecture = engine.manifest.record["architecture"]
    for change, says in [
        ({"mapper": {"type": "mapper", "config": {"dim": 64, "blocks": 3}}}, "size mismatch"),
        ({"mapper": {"type": "mapper", "config": {"dim": 128, "layers": 3}}}, "layers"),
        ({"mapper": {"type": "mlp", "config": {}}}, "vit, efficientnet, mapper and low_rank_mapper"),
        ({"mapper": {}}, "config"),
    ]:
        record = {**engine.manifest.record, "architecture": {**architecture, **change}}
        with pytest.raises(EngineError, match=says):
            load_folded(replace(engine, manifest=replace(engine.manifest, record=record)))


def test_a_missing_run_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "engine"]) == 2
    error = capsys.readouterr().err
    assert "python -m train demo" in error
    assert "--random-weights" in error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sigma = 0.5", ""), "missing key 'sigma'"),
        (("sigma = 0.5", "sigma = 0.5\nmagic = 1"), "unknown key 'magic'"),
        (('preset = "vit-tiny"', 'preset = "vit-huge"'), "vit-huge"),
        (("sigma = 0.5", "sigma = "), "pooled.toml"),
        (('fit = "squash"', 'fit = "stretch"'), "stretch"),
        (("height = 64", "height = 48"), "encoder's input size"),
        (("random_seed = 1", 'random_seed = 1\nrun = "runs/x"'), "wanted one of run"),
        (("random_seed = 1\n", ""), "wanted one of run"),
        (('name = "pooled"', 'name = "../../x"'), "wanted name as"),
        (("sigma = 0.5", 'sigma = "0.5"'), "wanted sigma as a number"),
        (("n0 = 3", 'n0 = "x"'), "wanted n0 as a whole number in 1…4096, got 'x'"),
        (("n0 = 3", "n0 = true"), "wanted n0"),
        (("n0 = 3", "n0 = 3.0"), "wanted n0"),
        (("height = 64", 'height = "a"'), "wanted grid.height"),
        (("[0.5, 0.45, 0.4]", "[0.5, 0.45]"), "wanted normalise.mean as a list of three numbers"),
        (("[0.25, 0.26, 0.27]", "[0.25, 0.26, 0.0]"), "wanted normalise.std"),
        (("[0.25, 0.26, 0.27]", "[0.25, 0.26, nan]"), "wanted normalise.std"),
        (("ln_post = true", "ln_post = 1"), "wanted encoder.ln_post"),
        (("random_seed = 1", "random_seed = -1"), "wanted weights.random_seed"),
        (("[weights]", "[mapper]\nblocks = 0\n[weights]"), "wanted mapper.blocks"),
        (("[weights]", '[purifier]\npreset = "adm265"\n[weights]'), "got 'adm265'"),
    ],
    ids=[
        *(
            "missing",
            "unknown",
            "preset",
            "toml",
            "fit",
            "size",
            "both",
            "neither",
            "name",
            "sigma",
            "n0",
            "true",
        ),
        *("float", "height", "mean", "zero", "nan", "ln_post", "seed", "blocks", "purifier"),
    ],
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


def test_names_are_those_of_engines():
    schema = json.loads(Path("fsfast/schemas/engine.schema.json").read_text())
    assert schema["properties"]["name"]["pattern"] == f"^{NAME.pattern}$"


def test_a_grid_that_is_no_table(tmp_path, capsys):
    text = (RECIPES / "pooled.toml").read_text()
    (tmp_path / "pooled.toml").write_text("grid = 3\n" + text.replace("[grid]", "[grids]"))
    assert main([str(tmp_path / "pooled.toml")]) == 2
    assert "unknown key 'grids'" in capsys.readouterr().err
    head, _, tail = text.partition("[grid]")
    (tmp_path / "pooled.toml").write_text(f"grid = 3\n{head}[normalise]{tail.partition('[normalise]')[2]}")
    assert main([str(tmp_path / "pooled.toml")]) == 2
    assert "wanted a table [grid], got 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clip-b16", "vit-b16-random"])
@pytest.mark.parametrize("how", [[], ["--dry-run"]], ids=["build", "dry"])
def test_runs_to_compare_want_a_run(name, how, capsys):
    assert main([name, "--compare", "runs/none", *how]) == 2
    assert "wanted --compare with a recipe of a training run" in capsys.readouterr().err


def test_a_run_to_compare_is_looked_for_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("export.build.load_study", None)
    assert main(["demo", "--compare", str(tmp_path / "none"), "--out", str(tmp_path / "engine")]) == 2
    assert "wanted a finished training run in" in capsys.readouterr().err


def test_the_dry_run_of_a_run(tmp_path, capsys, monkeypatch):
    """A run that is missing, there, and there for another sigma."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--dry-run", "--sigma", "0.3"]) == 1
    said = capsys.readouterr().out
    assert "missing  run: runs/demo/results.json" in said
    assert "python -m train demo" in said
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/results.json").write_text('{"sigma": 0.25}')
    assert main(["demo", "--dry-run"]) == 0
    assert "missing" not in capsys.readouterr().out
    assert main(["demo", "--dry-run", "--sigma", "0.3"]) == 2
    assert "trained for σ = 0.25" in capsys.readouterr().err
    (tmp_path / "runs/demo/results.json").write_text("[]")
    assert main(["demo", "--dry-run"]) == 2
    assert "got something else" in capsys.readouterr().err


WAITING = """
import sys, tempfile, time
from export.stopping import run
def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("ready", flush=True)
        time.sleep(60)
run("wait", main)
"""


def test_sigterm_cleans_up(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["export", "train"])
def test_both_commands_ask_for_it(module, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: asked.append(number))
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__")
    assert stop.value.code == 0
    assert asked == [signal.SIGTERM]
