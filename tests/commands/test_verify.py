"""`fsfast verify` for many images: a verdict for each, and what has no partner is named."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import fsfast
from fsfast.cli import main
from fsfast.images.grid import to_grid_image
from tests.commands.pictures import folder_of_pictures
from tests.written_before import ENGINE


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures."""
    return folder_of_pictures(tmp_path, "a", "b", "c")


@pytest.fixture
def certified(photos, tmp_path):
    """A file about them: the second is forged, and one has another execution profile."""
    lines = []
    for micro_batch, names in ((1, "ab"), (2, "c")):
        with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime", micro_batch=micro_batch) as encoder:
            made = [encoder.certify(str(photos / f"{name}.png"), 5) for name in names]
        lines += [certificate.to_record() for certificate in made]
    lines[1]["constants"]["mean"] = 0.9999
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def verify(*args):
    return main(["verify", *map(str, args), "--engine", str(ENGINE)])


def test_one_verdict_per_image_and_a_summary(photos, certified, capsys):
    assert verify(certified, photos) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith("  ")] == [
        f"{photos}/a.png: same",
        f"{photos}/b.png: different:",
        f"{photos}/c.png: same",
        "2 same, 1 different",
    ]
    assert "line 2 was altered" in out
    assert verify(certified, photos / "a.png", photos / "c.png") == 0


def test_what_has_no_partner_is_named(photos, certified, capsys):
    (photos / "c.png").unlink()
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    assert verify(certified, photos / "a.png", photos / "new.png") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"{photos}/new.png: no certificate"
    assert said[2:4] == [
        f"{certified}, line {number} ({photos}/{name}.png): no image" for number, name in ((2, "b"), (3, "c"))
    ]
    assert said[4] == "1 same, 1 no certificate, 2 no image"
    assert verify(certified, photos / "a.png", photos / "new.png", "--json") == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["verdict"] for record in records] == ["same", "no certificate", "no image", "no image"]
    assert records[2]["certificate"] == f"{certified}, line 2"


@pytest.mark.parametrize(("on_error", "verdicts"), [("skip", 2), ("stop", 1)])
def test_an_image_that_cannot_be_read(photos, certified, capsys, on_error, verdicts):
    (photos / "b.png").write_bytes(b"no picture")
    assert verify(certified, photos, "--on-error", on_error) == 1
    out, err = capsys.readouterr()
    assert out.count(": same\n") == verdicts
    assert "1 not checked" in out
    assert "b.png" in err


def test_a_certificate_that_cannot_be_checked_sinks_no_other(photos, certified, capsys, monkeypatch):
    monkeypatch.setenv("FSFAST_MAX_REPLAY_SAMPLES", "100")
    records = [json.loads(line) for line in certified.read_text().splitlines()]
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        records[1] = encoder.certify(str(photos / "b.png"), 200).to_record()
    certified.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert verify(certified, photos) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "2 same, 1 not checked"
    assert "FSFAST_MAX_REPLAY_SAMPLES" in err


def test_fresh_noise_for_many(photos, certified, capsys):
    assert verify(certified, photos / "a.png", photos / "c.png", "--fresh") == 0
    out = capsys.readouterr().out
    assert out.count(".png: not refuted by new noise (n = 5)") == 2
    assert "2 not refuted by new noise" in out


def test_images_as_they_came_onto_the_grid_then(photos, tmp_path, capsys):
    """Certificates of before the resize of this version, alone and among others."""
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        grid = encoder.manifest.grid
        old = encoder.certify(to_grid_image(photos / "a.png", grid, resize=1), 5)
        new = encoder.certify(str(photos / "b.png"), 5)
    assert old.grid_sha256 != to_grid_image(photos / "a.png", grid).grid_sha256
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(c.to_record()) + "\n" for c in (old, new)))
    assert verify(path, photos / "a.png", photos / "b.png") == 0
    assert verify(path, photos / "a.png") == 0
    old.save(path)
    assert verify(path, photos / "a.png") == 0


def test_forged_lines_match_nothing(photos, certified, capsys):
    with certified.open("a") as file:
        for image in (7, {"grid_sha256": [], "source": 1}, {"source": {"resize": "2"}}):
            file.write(json.dumps({"image": image}) + "\n")
    assert verify(certified, photos / "a.png", photos / "c.png") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 same, 4 no image"
