"""The study of the photo engines: rows that are kept, and what the tables make of them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import read
from benchmarks.pages import photo, photo_card
from benchmarks.photo import attacks, certified, mapper, plug_in, study, summary
from train.evaluate import plug_in_radius
from train.photos.assembling import Picture


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of `photo-data`: two photographs held out, one for the mean."""
    folder, rows = tmp_path_factory.mktemp("data"), []
    for i, split in enumerate(("held-out", "held-out", "train")):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 9, 3), np.uint8)
        Image.fromarray(coarse).resize((270, 240), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        rows.append([f"{i}.png", f"p{i}", "p", "1", "CC0-1.0", f"{i:064x}", split, "photograph", 270, 240, 0])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(Picture.__dataclass_fields__), *rows])
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(plug_in, "SAMPLES", 2)
    monkeypatch.setattr(plug_in, "N0", 1)
    monkeypatch.setattr(attacks, "STEPS", 1)
    monkeypatch.setattr(attacks, "NOISES", 1)
    monkeypatch.setattr(attacks, "N0", 1)
    monkeypatch.setattr(certified, "SAMPLES", 2)


def test_every_part_runs_and_goes_on_where_it_was_stopped(data, quick, tmp_path):
    run = ["--data", str(data), "--engine", "photo", "--out", str(tmp_path), "--images", "1"]
    assert study.main(run) == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    assert set(kept) == {
        *("plug-in.csv", "plain.csv", "adaptive.csv", "certified.csv"),
        *("summary.csv", "attacked.csv", "certificates.csv"),
    }
    rows = read(tmp_path / "plug-in.csv")
    assert [row["networks"] for row in rows] == ["encoder", "purifier+encoder"]
    for row in rows:
        assert float(row["radius"]) == pytest.approx(plug_in_radius(float(row["score"]), 0.25), abs=1e-5)
    assert [row["sigma"] for row in read(tmp_path / "plain.csv")] == ["0", "0.25", "0.25"]
    assert [row["anchor"] for row in read(tmp_path / "certified.csv")] == ["served", "clean"]
    # Half of a row, as a kill leaves it, is made again; nothing else is.
    whole = (tmp_path / "plain.csv").read_bytes()
    (tmp_path / "plain.csv").write_bytes(whole[:-20])
    assert study.main(run) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == kept
    for render in (photo.render_study, photo.render_certificates, photo.render_attacks):
        assert "photo" in render(tmp_path) or "encoder" in render(tmp_path)


def test_a_folder_without_data_is_refused(tmp_path, capsys):
    assert study.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "manifest.csv" in capsys.readouterr().err


def test_where_nothing_is_certified_counts_as_nothing(tmp_path):
    columns = [*certified.COLUMNS]
    first = dict.fromkeys(columns, "0.5") | {"sigma": "0.25", "anchor": "clean", "n": "10", "radius": "0.3"}
    second = first | {"radius": "0.0", "cosine_0.125": "", "class_radius": "0.0"}
    with (tmp_path / "certified.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([first, second])
    summary.write(tmp_path)
    (row,) = read(tmp_path / "certificates.csv")
    assert (row["images"], row["certified"], row["radius"]) == ("2", "0.5", "0.15")
    assert (row["cosine_0.125"], row["class_certified"]) == ("0.25", "0.5")


def test_a_certified_class_may_be_another_than_the_encoders_own(tmp_path):
    def write(name, columns, *rows):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    known = dict.fromkeys(plug_in.COLUMNS, "0.5") | {"sigma": "0.25", "clean_class": "cat"}
    write("plug-in.csv", plug_in.COLUMNS, *(known | {"image": image} for image in "abc"))
    made = dict.fromkeys(certified.COLUMNS, "0.5") | {"sigma": "0.25", "anchor": "clean", "class": "cat"}
    made = [
        made | {"image": "a"},
        made | {"image": "b", "class": "dog"},
        made | {"image": "c", "class_radius": "0"},
    ]
    write("certified.csv", certified.COLUMNS, *made, made[0] | {"image": "unknown"})
    summary.write(tmp_path)
    (row,) = read(tmp_path / "certificates.csv")
    assert (row["class_certified"], row["class_as_clean"]) == ("0.75", "0.25")


def test_runs_of_the_mapper_become_a_table(tmp_path, capsys):
    columns = ("sigma", "output", "crops", "noises", "mapper", "rank", "ridge", "strength")
    columns += ("score", "score_centred", "served_to_clean", "agreement")
    for run, sigma in (("a", "0.25"), ("b", "0.12")):
        (tmp_path / run).mkdir()
        rows = [[sigma, "pooled", "8", "3", name, "", "", "", *"1111"] for name in ("none", "x", "y", "z")]
        with (tmp_path / run / "mapper.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    out = ["--out", str(tmp_path)]
    assert mapper.main([str(tmp_path / "a"), str(tmp_path / "b"), *out]) == 0
    rows = read(tmp_path / "mapper.csv")
    assert [(row["sigma"], row["mapper"]) for row in rows] == [
        (sigma, name) for sigma in ("0.25", "0.12") for name in ("none", "x", "y")
    ]
    shown = photo.render_mapper(tmp_path)
    assert "| 0.12 | pooled | y |  |  |  | 1.0000 | 1.0000 | 1.0000 | 100.0% |" in shown
    assert "8 crops" in shown
    assert mapper.main([str(tmp_path / "c"), *out]) == 2
    assert "mapper.csv" in capsys.readouterr().err


def test_the_documents_and_the_card_show_the_tables_that_are_committed(tmp_path):
    text = (Path(RESULTS).parents[1] / "docs" / "photo.md").read_text(encoding="utf-8")
    assert photo.updated(text) == text
    said = photo_card.text([])
    assert photo.render_data(RESULTS / "photo") in said
    if (RESULTS / "photo" / "summary.csv").exists():
        assert photo.render_study(RESULTS / "photo") in said
