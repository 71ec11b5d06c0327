"""`--weights`: raw or averaged, of all files or of single ones, on the way from the command line to the manifest."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open

from export import from_onnx, from_text, networks, outside
from export.__main__ import main
from export.options import Options, customise, describe
from export.published import Published
from export.recipe import load_recipe
from fsfast.models import UNET_TINY, SmoothnessMapper, UNet
from tests.export.test_recipes import CONFIG, RECIPE, WEIGHTS
from tests.models.texts import SMALL_CLIP, as_open_clip, random_tower, write_tokenizer

STAGES = ("purifier", "encoder", "mapper")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A recipe, and for each stage a file of raw weights and their average, which is one more."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    monkeypatch.setattr("export.options.PURIFIED_SIDE", 16)
    (tmp_path / "narrow.toml").write_text(RECIPE)
    raw = {
        "purifier": UNet(UNET_TINY).state_dict(),
        "encoder": WEIGHTS,
        "mapper": SmoothnessMapper(64, 2).state_dict(),
    }
    for stage, weights in raw.items():
        average = {name: tensor + 1 for name, tensor in weights.items()}
        torch.save({"model": weights, "ema": average}, tmp_path / f"{stage}.pt")
    return {stage: str(tmp_path / f"{stage}.pt") for stage in STAGES}


def recipe(tmp_path, **options):
    return customise(load_recipe(str(tmp_path / "narrow.toml")), Options(**options))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([("", "ema")], ("ema", "ema", "ema")),
        ([("", "ema"), ("encoder", "raw")], ("ema", "raw", "ema")),
        ([("purifier", "raw"), ("encoder", "ema"), ("mapper", "raw")], ("raw", "ema", "raw")),
    ],
)
def test_every_stage_gets_the_weights_that_are_meant(files, given, meant, tmp_path):
    source = Published(recipe(tmp_path, **files, weights=given))
    for stage, weights in zip(STAGES, meant, strict=True):
        loaded = source.load(stage).state_dict()
        stored = torch.load(files[stage])
        for name, tensor in stored["ema" if weights == "ema" else "model"].items():
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
        note = {
            "raw": "raw weights of model, not those of ema",
            "ema": "averaged weights of ema, not those of model",
        }
        assert note[weights] in source.provenance(stage)[0]


def test_without_the_option_no_engine_is_made(files, tmp_path, capsys):
    command = [
        str(tmp_path / "narrow.toml"),
        "--encoder",
        files["encoder"],
        "--out",
        str(tmp_path / "engine"),
    ]
    assert main(command) == 2
    assert "--weights ema" in capsys.readouterr().err
    assert main([*command, "--weights", "ema"]) == 0
    (row,) = json.loads((tmp_path / "engine/engine.json").read_text())["provenance"]
    assert "averaged weights of ema, not those of model" in row["source"]


def test_a_recipe_says_it_and_the_command_line_comes_first(files, tmp_path):
    (tmp_path / "narrow.toml").write_text(RECIPE.replace("[encoder]", '[encoder]\nweights = "ema"'))
    assert recipe(tmp_path, encoder=files["encoder"]).weights == {"encoder": "ema"}
    chosen = recipe(tmp_path, encoder=files["encoder"], weights=[("encoder", "raw")])
    assert chosen.weights == {"encoder": "raw"}
    assert f"{files['encoder']}, raw weights" in describe(chosen)
    assert recipe(tmp_path, random_weights=True).weights == {}


@pytest.mark.parametrize(
    ("meant", "source", "says"),
    [
        ('"best"', 'encoder = ["somewhere"]', "wanted encoder.weights as one of raw, ema, got 'best'"),
        ('["raw"]', 'encoder = ["somewhere"]', "wanted encoder.weights as one of raw, ema, got ['raw']"),
        ('"ema"', "random_seed = 1", "encoder.weights wants [weights] with encoder"),
    ],
)
def test_wrong_recipes(meant, source, says, tmp_path):
    text = RECIPE.replace("[encoder]", f"[encoder]\nweights = {meant}")
    (tmp_path / "narrow.toml").write_text(text.replace('encoder = ["somewhere"]', source))
    with pytest.raises(ValueError, match=re.escape(says)):
        recipe(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "--weights", "ema"], "come from files (none here), got ema"),
        (["clip-l14", "--weights", "mapper=ema"], "come from files (encoder), got mapper=ema"),
        (["clip-l14", "--random-weights", "--weights", "raw"], "come from files (none here), got raw"),
    ],
)
def test_stages_that_come_from_no_file_are_refused(words, says, capsys):
    assert main([*words, "--dry-run"]) == 2
    assert says in capsys.readouterr().err


def test_beside_a_graph_of_ones_own(files):
    words = ["a.onnx", "--out", "x", "--mean", "0,0,0", "--std", "1,1,1", "--purifier", files["purifier"]]

    def chosen(weights):
        args = from_onnx._parser().parse_args([*words, "--weights", weights])
        return outside.recipe_of(args, "a", (16, 16), (1, 64), "pooled").weights

    assert chosen("ema") == {"purifier": "ema"}
    with pytest.raises(ValueError, match=r"come from files \(purifier\), got encoder=ema"):
        chosen("encoder=ema")


def test_of_a_text_tower(tmp_path, capsys):
    average = as_open_clip(random_tower(SMALL_CLIP))
    raw = {name: torch.zeros_like(tensor) for name, tensor in average.items()}
    torch.save({"state_dict": raw, "state_dict_ema": average}, tmp_path / "both.pt")
    torch.save(average, tmp_path / "alone.pt")
    write_tokenizer(tmp_path)
    (tmp_path / "names.txt").write_text("cat\n")

    def rows(name, *more):
        out = tmp_path / f"{name}.safetensors"
        words = [str(tmp_path / f"{name}.pt"), "--names", str(tmp_path / "names.txt"), "--out", str(out)]
        code = from_text.main([*words, "--activation", "gelu", *more])
        return code or safe_open(out, framework="pt")

    assert rows("both") == 2
    assert "--weights ema" in capsys.readouterr().err
    both, alone = rows("both", "--weights", "ema"), rows("alone")
    name = "class_features"
    torch.testing.assert_close(both.get_tensor(name), alone.get_tensor(name), rtol=0, atol=0)
    assert "averaged weights of state_dict_ema" in str(both.metadata())
