"""Classes from files: into new engines of every kind and into those that exist; files that hold none are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fsfast
from export import classes, from_torch
from export.__main__ import main
from export.class_rows import read_classes, read_names, save_texts
from export.recipe import ClassFiles, load_recipe
from fsfast.engine.classes import load_classes
from fsfast.engine.engine import load_engine
from fsfast.models.vit_config import VIT_TINY, ViTConfig
from tests.conftest import RECIPES

ROWS = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
NAMES = "a lesser panda\nespresso\n  zebra\n\n"


@pytest.fixture
def files(tmp_path):
    """What --classes and --names want, as arguments."""
    np.save(tmp_path / "rows.npy", ROWS)
    (tmp_path / "names.txt").write_text(NAMES)
    return ["--classes", str(tmp_path / "rows.npy"), "--names", str(tmp_path / "names.txt")]


def test_an_engine_gets_classes_from_files(pooled_path, files, tmp_path, capsys):
    """What predict names is what plain products with the rows name, by directions and by a classifier's rows."""
    x = np.random.default_rng(1).normal(size=(50, 128))
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    for kind, rows in (("directions", unit), ("linear", ROWS)):
        path = tmp_path / kind
        arguments = [
            str(pooled_path),
            *files,
            "--out",
            str(path),
            *(["--linear"] if kind == "linear" else []),
        ]
        assert classes.main(arguments) == 0
        assert "3 classes" in capsys.readouterr().out
        with fsfast.SmoothedEncoder(path) as encoder:
            assert encoder.classes.names == ("a lesser panda", "espresso", "zebra")
            assert encoder.classes.kind == kind
            assert encoder.classes.predict(x) == [encoder.classes.names[k] for k in (x @ rows.T).argmax(1)]
    # The networks are the old engine's, byte for byte; the card says what was added, once.
    old, new = load_engine(pooled_path), load_engine(path)
    changed = {"classes.safetensors", "model-card.md"}
    assert {k: v for k, v in new.manifest.files.items() if k not in changed} == {
        k: v for k, v in old.manifest.files.items() if k not in changed
    }
    assert classes.main([str(path), *files, "--out", str(tmp_path / "again")]) == 0
    card = (tmp_path / "again" / "model-card.md").read_text()
    assert card.count("a lesser panda, espresso, zebra.") == card.count("rows.npy (sha256 ") == 1
    assert load_classes(load_engine(tmp_path / "again")).kind == "directions"


def test_an_export_takes_classes(files, tmp_path):
    assert main([str(RECIPES / "pooled.toml"), *files, "--linear", "--out", str(tmp_path / "engine")]) == 0
    head = load_classes(load_engine(tmp_path / "engine"))
    assert head.kind == "linear"
    np.testing.assert_array_equal(head.features, ROWS)
    assert "linear classifier" in (tmp_path / "engine" / "model-card.md").read_text()


def test_an_encoder_from_outside_takes_classes(files, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nnet = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 128))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["mine:net", *files, "--out", "engine", "--size", "8,8", "--mean", "0,0,0", "--std", "1,1,1"]
    assert from_torch.main(arguments) == 0
    assert load_classes(load_engine("engine")).names[2] == "zebra"


def test_a_recipe_names_classes(files, tmp_path):
    text = (RECIPES / "pooled.toml").read_text()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'{text}\n[classes]\nrows = "{files[1]}"\nnames = "{files[3]}"\nkind = "linear"\n')
    found = load_recipe(str(recipe)).classes
    assert (str(found.rows), str(found.names), found.kind) == (files[1], files[3], "linear")
    recipe.write_text(f'{text}\n[classes]\nrows = "{files[1]}"\nkind = "votes"\n')
    with pytest.raises(ValueError, match=r"classes.kind as one of directions, linear"):
        load_recipe(str(recipe))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--names", "names.txt"], "--classes FILE"),
        (["--linear"], "--classes FILE"),
        (["--classes", "missing.npy"], "missing.npy"),
        (["--classes", "names.txt"], r"\.safetensors or \.npy"),
    ],
)
def test_options_that_name_no_classes_are_refused(files, tmp_path, monkeypatch, arguments, says, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(RECIPES / "pooled.toml"), *arguments, "--out", "engine"]) == 2
    assert says.replace("\\", "") in capsys.readouterr().err


def test_a_run_has_its_own_classes(files, tmp_path, capsys):
    assert main(["demo", *files, "--out", str(tmp_path / "engine")]) == 2
    assert "has the classes of the run" in capsys.readouterr().err
    assert classes.main(["demo", *files, "--out", str(tmp_path / "engine")]) == 2
    assert "measured with its own classes" in capsys.readouterr().err


NAN = np.where(np.eye(3, 128, 5) > 0, np.nan, ROWS)


@pytest.mark.parametrize(
    ("rows", "kind", "says"),
    [
        (ROWS[0], "directions", r"\[K, D\] of 2 to 65536"),
        (ROWS[:1], "directions", r"\[K, D\] of 2 to 65536"),
        (ROWS.astype(np.int64), "linear", "floating point, got int64"),
        (NAN, "linear", r"finite numbers in float32, got others in row 0"),
        (np.full((3, 4), 1e300), "linear", "finite numbers in float32"),
        (np.eye(3, 128, -1), "directions", "directions, got zeros in row 0"),
        (ROWS[:2], "directions", "wanted the names of the 2 rows of rows.npy, got 3 names"),
    ],
    ids=["vector", "one", "integers", "nan", "overflow", "zero", "number"],
)
def test_rows_that_are_no_classes_are_refused(rows, kind, says, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "names.txt").write_text(NAMES)
    with pytest.raises(ValueError, match=says):
        read_classes(ClassFiles(tmp_path / "rows.npy", tmp_path / "names.txt", kind))


def test_a_classifiers_row_may_be_zero(tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(3, 128, -1))
    (tmp_path / "names.txt").write_text(NAMES)
    found = read_classes(ClassFiles(tmp_path / "rows.npy", tmp_path / "names.txt", "linear"))
    assert not found.rows[0].any()


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("crane\nheron\ncrane\n", "names.txt", "names 1 and 3 are both 'crane'; tell them apart"),
        ("a\n\nb", "names.txt", "name 2 is ''"),
        ("x" * 257, "names.txt", "name 1 is 'xxx"),
        ('{"0": "a"}', "names.json", "a list of names"),
        ('["a", "b\\u202e"]', "names.json", "name 2 is"),
        ("[1, 2]", "names.json", "a list of names"),
        ("[", "names.json", "cannot read the names"),
        (b"\xff\xfe", "names.txt", "cannot read the names"),
    ],
)
def test_names_that_classes_cannot_have_are_refused(text, name, says, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=says):
        read_names(tmp_path / name)


def test_names_as_json_and_with_a_byte_order_mark(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(["großer Panda", "b"]))
    assert read_names(tmp_path / "names.json") == ("großer Panda", "b")
    (tmp_path / "names.txt").write_text("a\r\nb\r\n", encoding="utf-8-sig")
    assert read_names(tmp_path / "names.txt") == ("a", "b")


def test_a_bias_is_refused(tmp_path):
    save_file({"fc.weight": ROWS, "fc.bias": ROWS[:, 0].copy()}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"got fc.bias, fc.weight; save the rows alone; a bias cannot be kept"
    ):
        read_classes(ClassFiles(tmp_path / "a.safetensors", None, "linear"))


def test_directions_of_texts_bring_their_names_and_want_the_space_that_texts_share(
    tmp_path, pooled_path, capsys
):
    path = tmp_path / "texts.safetensors"
    save_texts(path, ("a", "b", "c"), ROWS, "the text tower of model.safetensors")
    found = read_classes(ClassFiles(path, None, "directions"))
    assert found.names == ("a", "b", "c")
    assert "the text tower of model.safetensors" in found.source
    np.testing.assert_array_equal(load_file(path)["class_features"], ROWS)
    found.check("pooled", 128, VIT_TINY)
    found.check("pooled", 128, None)
    with pytest.raises(ValueError, match="this engine's are tokens; export it with --output pooled"):
        found.check("tokens", 128, VIT_TINY)
    dino = ViTConfig(128, 1, 2, 8, 64, 128, projection=False)
    with pytest.raises(ValueError, match=r"does neither \(pooling cls, no projection\)"):
        found.check("pooled", 128, dino)
    with pytest.raises(
        ValueError, match=r"of 64 numbers.*got 128; take the text tower of the same checkpoint"
    ):
        found.check("pooled", 64, None)
    (tmp_path / "names.txt").write_text("a\nc\nb")
    with pytest.raises(ValueError, match="other than those in it; leave out --names"):
        read_classes(ClassFiles(path, tmp_path / "names.txt", "directions"))
    assert classes.main([str(pooled_path), "--classes", str(path), "--out", str(tmp_path / "engine")]) == 0
    assert load_classes(load_engine(tmp_path / "engine")).names == ("a", "b", "c")
