"""`python -m study attack` and `results`: what they write, what they refuse, and that they go on."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="test images need scikit-image (the train extra)")

import fsfast
from benchmarks.pages import attacks as tables
from fsfast.engine.engine import load_engine
from fsfast.report.examples import FOLDER
from study import attack_command, results, summary
from study.__main__ import main
from study.attacks import known_seed
from study.defences import KNOWN, NAMES, NONE, PURIFIER, SMOOTHED, Defences, levels_of_pixels
from study.interval import bootstrap
from study.pictures import read_png
from study.victim import Victim

DIGITS = [str(FOLDER / "demo" / f"digit-{i}.png") for i in (1, 2)]


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def victim():
    return Victim.of(load_engine("demo"))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The folder of one call, and its arguments."""
    out = tmp_path_factory.mktemp("attacks")
    arguments = [
        *("attack", "demo", *DIGITS, "--target", "star", "--steps", "12", "--n", "60", "--out", str(out))
    ]
    arguments += ["--attack", "attackvlm", "--attack", "l2-1", "--attack", "typographic", "--noises", "1"]
    assert main(arguments) == 0
    return out, arguments


def test_a_call_leaves_a_table_a_page_and_the_images(attacked):
    out, _ = attacked
    rows = rows_of(out / "attacks.csv")
    assert [(row["image"], row["attack"]) for row in rows] == [
        (image, attack)
        for image in ("digit-1.png", "digit-2.png")
        for attack in ("attackvlm", "l2-1", "typographic")
    ]
    for row in rows:
        pixels = read_png(out / row["file"])
        change = (pixels.astype(np.float64) - read_png(FOLDER / "demo" / row["image"])) / 255
        assert float(row["l2"]) == pytest.approx(np.linalg.norm(change), abs=1e-4)
        assert row["linf"] == str(round(255 * np.abs(change).max()))
    by_attack = {row["attack"]: row for row in rows}
    assert by_attack["attackvlm"]["plain_class"] == "star"
    assert by_attack["attackvlm"]["smoothed_class"] == by_attack["attackvlm"]["clean_class"] == "2"
    assert by_attack["attackvlm"]["linf"] == "12"
    assert float(by_attack["l2-1"]["l2"]) <= float(by_attack["l2-1"]["certified_radius"]) + 1e-4
    page = (out / "attacks.html").read_text()
    assert page.count("<article") == 6
    assert "the encoder alone sees the target in 2" in page


def test_the_answers_are_those_of_the_engine(attacked):
    out, _ = attacked
    row = rows_of(out / "attacks.csv")[0]
    with fsfast.SmoothedEncoder("demo") as encoder:
        tokens = encoder.clean(read_png(out / row["file"]))
        assert encoder.classes.predict(tokens) == [row["plain_class"]]


def test_a_call_that_is_made_again_does_nothing_anew(attacked):
    out, arguments = attacked
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    table = (out / "attacks.csv").read_bytes()
    assert main(arguments) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")} == before
    assert (out / "attacks.csv").read_bytes() == table


def test_an_engine_without_a_network_in_torch_is_refused_by_name():
    engine = load_engine("demo")
    manifest = engine.manifest
    record = manifest.record | {
        "architecture": manifest.record["architecture"] | {"encoder": {"type": "onnx"}}
    }
    with pytest.raises(fsfast.FsfastError, match=r"\(demo\).*an ONNX graph"):
        Victim.of(replace(engine, manifest=replace(manifest, record=record)))


def test_wrong_use_is_refused(capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert main(["attack", "demo", DIGITS[0], "--attack", "fgsm", *out]) == 2
    assert "wanted an attack among attackvlm" in capsys.readouterr().err
    assert main(["attack", "demo", DIGITS[0], "--target", "cat", *out]) == 2
    assert "one of 11 classes, got 'cat'" in capsys.readouterr().err
    assert main(["attack", "demo", DIGITS[0], *out]) == 2
    assert "at least two classes" in capsys.readouterr().err
    assert main(["results", "--part", "photo", *out]) == 2
    assert "wants --data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        attack_command.main(["demo", DIGITS[0], "--eps", "16"])
    assert main([]) == 2


def test_the_known_noise_is_the_engine_s_own(victim):
    pixels = np.stack([read_png(path) for path in map(str, DIGITS)])
    levels = levels_of_pixels(pixels)
    own = victim.smoothed(levels, victim.served_noise([known_seed.SEED] * 2, 4, (64, 64)))
    with Defences("demo", victim, secret=b"sixteen bytes, or more") as defences:
        found = defences.answers(levels)
        assert tuple(found) == NAMES
        torch.testing.assert_close(found[KNOWN].unit, own, atol=2e-4, rtol=0)
        again = defences.answers(levels, (SMOOTHED[4],))[SMOOTHED[4]]
    assert torch.equal(found[SMOOTHED[4]].unit, again.unit)
    # Under the secret the noise is another one.
    assert (found[SMOOTHED[4]].unit - own).norm(dim=2).max() > 1e-3
    torch.testing.assert_close(found[NONE].unit, victim.clean(levels))
    torch.testing.assert_close(found[PURIFIER].unit, victim.through(levels))


def test_results_become_tables(tmp_path):
    arguments = ["--part", "digits", "--images", "3", "--out", str(tmp_path), "--seed", "0"]
    arguments += ["--attack", "clean", "--attack", "jpeg"]
    assert results.main(arguments) == 0
    path = tmp_path / "digits.csv"
    rows = rows_of(path)
    assert [(row["attack"], row["image"]) for row in rows] == [
        (attack, f"digit {i}") for attack in ("clean", "jpeg") for i in range(3)
    ]
    assert all(row["none_cosine"] == "1" for row in rows if row["attack"] == "clean")
    # A line that was cut off is made again.
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert results.main([*arguments, "--part", "summary"]) == 0
    assert path.read_bytes() == whole
    shown = tables.render_part(rows_of(tmp_path / "summary.csv"), "demo")
    assert shown.startswith("| attack | ε | none | purifier | smoothed, n0 = 1 |")
    assert "3 images, up to 1 seeds" in shown


def test_summaries_are_means_over_images_and_seeds(tmp_path):
    from study.columns import COLUMNS

    def row(image, seed, seen):
        cells = dict.fromkeys(COLUMNS, "0") | {"engine": "demo", "attack": "class", "eps": "16/255"}
        return cells | {"image": image, "seed": seed, "label": "1", "target": "10", "none_class": seen}

    seen = [("a", "0", "10"), ("a", "1", "1"), ("b", "0", "10"), ("b", "1", "10")]
    (found, *_) = summary._summaries("digits", [row(*each) for each in seen])
    assert (found["hit"], found["right"], found["images"], found["seeds"]) == (0.75, 0.25, 2, 2)
    assert (found["hit_low"], found["hit_high"]) == (0.5, 1.0)


def test_an_attack_counts_where_it_reaches_what_it_has_to():
    def row(attack, eps, defence, hit):
        return {"engine": "demo", "attack": attack, "eps": eps, "defence": defence} | {
            f"hit{end}": hit for end in ("", "_low", "_high")
        }

    shown = tables.render_works(
        [
            row("attackvlm", "16/255", "none", "0.97"),
            row("m-attack", "16/255", "none", "0.2"),
            row("eot-4", "64/255", "smoothed, n0 = 4", "1"),
            row("eot-4", "16/255", "smoothed, n0 = 4", "0.14"),
        ]
    )
    cells = [line.split(" | ")[-1].strip(" |") for line in shown.splitlines()[2:]]
    assert cells == ["yes", "**no**", "yes", ""]


def test_the_interval_holds_the_mean_and_images_are_drawn_whole():
    mean, low, high = bootstrap([[1.0, 1.0], [0.0, 0.0], [1.0], [0.0]] * 10)
    assert mean == pytest.approx(0.5)
    assert low < 0.45 < 0.55 < high
    assert bootstrap([[0.3]] * 5) == pytest.approx((0.3, 0.3, 0.3))
