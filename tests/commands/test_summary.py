"""`fsfast summary`: the certified share of a data set as a table, as CSV and as a chart."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.cli import main
from tests.written_before import ENGINE


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates of three images; not all of them reach as far."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("certified") / "c.jsonl"
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8) // (i + 1)).save(path.parent / f"{i}.png")
    arguments = ["certify", str(ENGINE), str(path.parent), "-n", "40", "--seed", "5", "-o", str(path)]
    assert main([*arguments, "--backend", "onnxruntime"]) == 0
    return path


def summary(*args):
    return main(["summary", *map(str, args)])


def test_shares_are_counted_and_rounded_down(certificates, tmp_path, capsys):
    radii = sorted(c.radius(0.5) for c in fsfast.load_certificates(certificates))
    assert radii[0] < radii[1]
    between = (radii[0] + radii[1]) / 2
    assert summary(certificates, "--epsilon", between, "--csv", tmp_path / "s.csv") == 0
    assert "66.6 %" in (out := capsys.readouterr().out)
    assert f"median radius {int(radii[1] * 1000) / 1000:.3f} for cos ≥ 0.5" in out
    with open(tmp_path / "s.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["epsilon"]) == between
    assert (row["certified"], row["images"], row["share"]) == ("2", "3", "0.666666")


def test_json_has_counts(certificates, capsys):
    radii = sorted(c.radius(0.5) for c in fsfast.load_certificates(certificates))
    assert summary(certificates, "--json", "--epsilon", radii[1]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["radii"] == [{"epsilon": radii[1], "certified": 2}]
    assert (found["images"], found["median_radius"]) == (3, radii[1])


def test_radii_go_on_until_nothing_is_certified(certificates, tmp_path):
    assert summary(certificates, "--csv", tmp_path / "s.csv", "--cosine", 0.6) == 0
    with open(tmp_path / "s.csv", newline="") as file:
        counts = [int(row["certified"]) for row in csv.DictReader(file)]
    assert counts[-1] == 0 < counts[-2]


def test_the_chart_shows_the_exact_steps(certificates, tmp_path):
    from fsfast.report import data_set

    assert summary(certificates, "--plot", tmp_path / "s.svg") == 0
    assert (tmp_path / "s.svg").read_text().startswith("<svg ")
    x, y = data_set._steps(np.array([0.0, 0.1, 0.3, 0.3]))
    assert list(zip(x, y, strict=True)) == [(0, 0.75), (0.1, 0.75), (0.1, 0.5), (0.3, 0.5), (0.3, 0)]


def test_classes_come_from_what_was_served(tmp_path, capsys):
    image = str(Path(fsfast.__file__).parent / "assets" / "cat.jpg")
    served, target = str(tmp_path / "features"), str(tmp_path / "c.jsonl")
    assert main(["encode", "demo", image, "-o", served]) == 0
    assert main(["certify", "demo", image, "--served", served, "-n", "40", "-o", target]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cat.jpg"))
    assert summary(target, "--served", served) == 0
    out = capsys.readouterr().out
    assert "same class" in out
    assert f"{row.split()[-1]} for same class" in out
    # Another draw of the same image.
    other = str(tmp_path / "other")
    assert main(["encode", "demo", image, "-o", other]) == 0
    assert summary(target, "--served", other) == 2
    assert f"{other} has not the direction that {target} is about" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ("nowhere.jsonl",),
        ("c.jsonl", "--cosine", "0"),
        ("c.jsonl", "--epsilon", "-1"),
        ("c.jsonl", "--plot", "c.png"),
        ("c.jsonl", "--csv", "nowhere/s.csv"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(args, capsys):
    assert summary(*args) == 2
    assert capsys.readouterr().err.count("\n") == 1
