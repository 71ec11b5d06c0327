"""An engine in the place of a recipe: its networks are taken as they are, others join or replace them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import save_file

from export import networks
from export.__main__ import main
from export.class_rows import read_classes
from export.engine_recipe import find_recipe
from export.options import Options, customise
from export.published import Published
from export.recipe import ClassFiles, load_recipe
from fsfast.engine.engine import load_engine
from fsfast.models import SmoothnessMapper
from fsfast.models.folded import load_folded
from tests.export.onnx_files import convolutions, saved
from tests.export.test_recipes import CONFIG, RECIPE, WEIGHTS
from train.checkpoint import save_weights


def test_networks_are_taken_as_they_are(demo_path):
    """What an engine of its stages would run, and where it says that they come from."""
    engine = load_engine(demo_path)
    recipe = find_recipe(str(demo_path))
    assert recipe.stages == ("purifier", "encoder", "mapper")
    networks.check_networks(recipe)
    source = Published(recipe)
    for stage, module in load_folded(engine).items():
        network = networks.fold(recipe, source.load(stage))
        assert json.loads(json.dumps(network.architecture)) == engine.manifest.record["architecture"][stage]
        variant = engine.manifest.stages[stage]["float32"]
        assert (network.input, network.output) == (variant.input, variant.output)
        own = network.module.state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in module.state_dict().items())
        origin, licence = source.provenance(stage)
        assert origin.startswith(f"the engine demo (digest {engine.digest}): ")
        assert licence == engine.manifest.record["provenance"][0]["licence"]


def test_what_is_chosen_takes_their_place(demo_path, tmp_path):
    save_file(SmoothnessMapper(128, 1).state_dict(), tmp_path / "mapper.safetensors")
    recipe = find_recipe(str(demo_path))
    chosen = customise(recipe, Options(mapper=str(tmp_path / "mapper.safetensors"), n0=7))
    assert (chosen.n0, chosen.grid, chosen.mean) == (7, recipe.grid, recipe.mean)
    source = Published(chosen)
    assert len(source.load("mapper").blocks) == 1
    assert source.licence("mapper") == "not stated (fsfast export --licence says it)"
    assert customise(recipe, Options(mapper="none")).stages == ("purifier", "encoder")
    named = replace(recipe, name="demo+unet-tiny+mapper")
    assert customise(named, Options(mapper="x.pt")).name == "demo+unet-tiny+mapper"


def test_its_classes_come_along(demo_path, tmp_path):
    """The directions of the built-in engine: a mapper refines what they are compared with."""
    engine = load_engine(demo_path)
    recipe = find_recipe(str(demo_path))
    assert recipe.classes is not None
    kept = read_classes(recipe.classes)
    said = engine.manifest.record["classes"]
    assert list(kept.names) == said["names"]
    assert kept.kind == "directions"
    stored = load(engine.read(said["file"]))
    np.testing.assert_array_equal(kept.rows, next(iter(stored.values())))
    other = ClassFiles(tmp_path / "a.npy", None, "linear")
    assert customise(recipe, Options(classes=other)).classes == other


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "x.pt"}, "is an engine and has its encoder; leave --encoder out"),
        ({"random_weights": True}, "leave --random-weights out"),
        ({"output": "pooled"}, r"has the output tokens\+ln_post alone"),
        ({"sigma": 0.5}, "the purifier of .* is made for sigma = 0.25, got --sigma 0.5"),
        ({"sigma": 0.5, "purifier": "unet-tiny"}, "the mapper of .* is made for sigma"),
    ],
)
def test_what_would_change_its_networks_is_refused(options, says, demo_path):
    recipe = find_recipe(str(demo_path))
    with pytest.raises(ValueError, match=says):
        customise(recipe, Options(**options))


def test_sigma_is_free_where_no_network_depends_on_it(demo_path):
    recipe = customise(find_recipe(str(demo_path)), Options(purifier="unet-tiny", mapper="none", sigma=0.5))
    assert recipe.sigma == 0.5


def test_an_engine_is_no_checkpoint(demo_path, capsys):
    assert main(["clip-b16", "--encoder", str(demo_path)]) == 2
    assert "name it in the place of the recipe" in capsys.readouterr().err


def test_an_encoder_that_came_as_a_graph_is_exported_by_the_command_that_is_named(tmp_path, capsys):
    file = saved(convolutions(), tmp_path / "tower.onnx")
    engine, again = tmp_path / "engine", tmp_path / "again"
    colours = ["--mean", "0.5,0.45,0.4", "--std", "0.25,0.26,0.27", "--fit", "squash"]
    assert main(["onnx", str(file), "--out", str(engine), *colours]) == 0
    assert main([str(engine), "--out", str(again)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    named = said.split("fsfast export ")[1].split(", with")[0].split()
    assert main([*named, "--out", str(again)]) == 0
    a, b = (load_engine(path).manifest for path in (engine, again))
    assert (a.grid, a.mean, a.std, a.tokens, a.dim) == (b.grid, b.mean, b.std, b.tokens, b.dim)


def test_a_recipe_says_where_its_weights_are(tmp_path, monkeypatch):
    """From where it stands; what the command line says comes first."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    save_file(WEIGHTS, tmp_path / "own.safetensors")
    path = tmp_path / "narrow.toml"
    text = RECIPE.replace('preset = "narrow"', 'preset = "narrow"\ncheckpoint = "own.safetensors"')
    path.write_text(text)
    recipe = load_recipe(str(path))
    Published(customise(recipe, Options()))
    assert recipe.files == {"encoder": tmp_path / "own.safetensors"}
    assert customise(recipe, Options("other.pt")).files["encoder"].name == "other.pt"
    assert customise(recipe, Options(random_weights=True)).files == {}
    path.write_text(text.replace('encoder = ["somewhere"]', "random_seed = 1"))
    with pytest.raises(ValueError, match=r"encoder.checkpoint wants \[weights\] with encoder"):
        load_recipe(str(path))


def test_a_mapper_knows_an_encoder_by_what_its_output_depends_on(tmp_path, monkeypatch):
    """Where a checkpoint has no projection, embed_dim is the width: in the engine, but not in the recipe."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    (tmp_path / "narrow.toml").write_text(RECIPE)
    save_file(WEIGHTS, tmp_path / "own.safetensors")
    path = tmp_path / "mapper.safetensors"
    about = {"output": "penultimate", "encoder": replace(CONFIG, embed_dim=32).to_record()}
    save_weights(path, SmoothnessMapper(64, 1).state_dict(), "digest", 0.25, about)
    options = Options(str(tmp_path / "own.safetensors"), mapper=str(path))
    recipe = customise(load_recipe(str(tmp_path / "narrow.toml")), options)
    Published(recipe)
    save_weights(path, SmoothnessMapper(64, 1).state_dict(), "digest", 0.25, about | {"output": "pooled"})
    with pytest.raises(ValueError, match="embed_dim = 32 instead of 64"):
        Published(replace(recipe, output="pooled", ln_post=True))
