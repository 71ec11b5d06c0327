"""python -m benchmarks.photo: labels, answers, and the committed results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import read
from benchmarks.photo import __main__ as command
from benchmarks.photo import accuracy, labels
from export.class_rows import read_names
from export.recipe import load_recipe
from fsfast.files import file_sha256
from fsfast.images.grid import Grid, to_grid_image
from fsfast.models import load_efficientnet
from tests.models.efficientnets import SMALL, weights
from train.photos.assembling import Picture


def test_labels_name_classes_of_imagenet():
    found = labels.read_labels()
    names = read_names(load_recipe(command.RECIPE).classifier)
    assert len(names) == len(set(names)) == 1000
    assert len(found) >= 50
    assert len({each.sha256 for each in found}) == len(found)
    assert all(each.licence and each.classes and set(each.classes) <= set(names) for each in found)


def test_the_committed_results_are_of_all_labelled_photographs():
    rows, counts = read(RESULTS / "photo" / "labelled.csv"), read(RESULTS / "photo" / "accuracy.csv")
    found = labels.read_labels()
    assert [(row["name"], row["classes"]) for row in rows] == [
        (each.name, "; ".join(each.classes)) for each in found
    ]
    right = [row["answer"] in each.classes for row, each in zip(rows, found, strict=True)]
    assert [row["right"] for row in rows] == [str(each) for each in right]
    (served,) = (row for row in counts[:3] if row["head"] == accuracy.HEADS[1])
    assert (int(served["right"]), int(served["pictures"])) == (sum(right), len(found))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two pictures with labels, a small network in the place of the large one."""
    recipe = load_recipe(command.RECIPE)
    names = read_names(recipe.classifier)
    torch.save(weights(classes=1000), tmp_path / "small.pth")
    lines, found = [], []
    for i, classes in enumerate((names, names[:1])):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
        lines.append(
            Picture(
                path.name, path.name, "p", "1", "CC0", file_sha256(path), "train", "photograph", 50, 40, 5
            )
        )
        found.append(labels.Labelled("p", path.name, lines[-1].sha256, "CC0", tuple(classes)))
    monkeypatch.setattr(labels, "read_manifest", lambda out: lines)
    monkeypatch.setattr(command, "read_labels", lambda: found)
    monkeypatch.setattr(accuracy, "load_efficientnet", lambda path: load_efficientnet(path, SMALL))
    object.__setattr__(recipe, "grid", Grid(32, 32))
    monkeypatch.setattr(command, "load_recipe", lambda name: recipe)
    return tmp_path


def test_answers_are_those_of_the_network(data):
    arguments = ["--data", str(data), "--encoder", str(data / "small.pth"), "--out", str(data / "results")]
    assert command.main(arguments) == 0
    rows = read(data / "results" / "labelled.csv")
    recipe = load_recipe(command.RECIPE)
    levels = to_grid_image(data / "0.png", Grid(32, 32)).pixels.astype(np.float32)
    # (x − 127)/128, and rows without biases.
    pixels = torch.from_numpy((levels - 127) / 128).permute(2, 0, 1)[None]
    loaded = load_efficientnet(data / "small.pth", SMALL)
    scores = loaded.module(pixels, "pooled")[0, 0] @ loaded.classifier[0].T
    assert rows[0]["answer"] == read_names(recipe.classifier)[int(scores.argmax())]
    assert rows[0]["right"] == "True"
    counts = read(data / "results" / "accuracy.csv")
    assert [row["pictures"] for row in counts] == ["2"] * 6
    assert all(row["as_with_biases"] == "2" for row in counts if row["head"] == accuracy.HEADS[0])


def test_photographs_that_are_missing_are_named(data, monkeypatch, capsys):
    monkeypatch.setattr(labels, "read_manifest", lambda out: [])
    assert command.main(["--data", str(data), "--encoder", "x.pth"]) == 2
    assert "wanted all 2 labelled photographs" in capsys.readouterr().err
