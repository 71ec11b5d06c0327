"""`fsfast certify` for many images: folders, rows as they come, what was done before, images that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fsfast
from fsfast.cli import main
from tests.commands.pictures import folder_of_pictures
from tests.written_before import ENGINE


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures, and one between them that cannot be read."""
    folder = folder_of_pictures(tmp_path, "a", "c", "d")
    (folder / "b.png").write_bytes(b"no picture")
    return folder


def certify(*args, engine=ENGINE, n=5):
    return main(["certify", str(engine), *map(str, args), "-n", str(n), "--backend", "onnxruntime"])


@pytest.mark.parametrize(("on_error", "names"), [("skip", ["a.png", "c.png", "d.png"]), ("stop", ["a.png"])])
def test_a_folder(photos, tmp_path, capsys, on_error, names):
    assert certify(photos, "-o", tmp_path / "c.jsonl", "--on-error", on_error) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.split("\n\n")[0].splitlines()[2:]] == names
    assert err.count("\n") == 1
    assert "b.png" in err
    made = fsfast.load_certificates(tmp_path / "c.jsonl")
    assert [Path(certificate.image_name).name for certificate in made] == names


def test_a_row_is_shown_before_the_next_image(photos, capsys, monkeypatch):
    certified, shown = fsfast.SmoothedEncoder.certify, []

    def certify_and_look(*args, **options):
        shown.append(capsys.readouterr().out)
        return certified(*args, **options)

    monkeypatch.setattr(fsfast.SmoothedEncoder, "certify", certify_and_look)
    assert certify(photos / "a.png", photos / "c.png", photos / "d.png") == 0
    header, a, c = shown[0], shown[1].splitlines(), shown[2].splitlines()
    assert header == ""
    assert [len(a), len(c)] == [3, 1]
    assert c[0].startswith("c.png")
    # The widths do not change.
    assert len(a[2]) == len(c[0])


def test_what_was_done_before_keeps_its_class(tmp_path, capsys):
    image = tmp_path / "cat.jpg"
    shutil.copy(Path(fsfast.__file__).parent / "assets" / "cat.jpg", image)
    rows = []
    for _ in range(2):
        assert certify(image, "-o", tmp_path / "c.jsonl", engine="demo") == 0
        out, err = capsys.readouterr()
        rows.append(out.splitlines()[2])
    assert rows[0] == rows[1]
    assert "1 of the images were done before" in err


def test_a_class_that_cannot_be_made_again_is_not_guessed(tmp_path, capsys, monkeypatch):
    image = Path(fsfast.__file__).parent / "assets" / "cat.jpg"
    assert certify(image, "-o", tmp_path / "c.jsonl", engine="demo") == 0

    def refuse(*args):
        raise fsfast.CertificateError("its anchor does not come from its seed")

    monkeypatch.setattr(fsfast.SmoothedEncoder, "restore_direction", refuse)
    capsys.readouterr()
    assert certify(image, "-o", tmp_path / "c.jsonl", engine="demo") == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-3:] == ["done", "before", "—"]


def test_twins_share_a_certificate(photos, tmp_path, capsys):
    shutil.copy(photos / "a.png", photos / "z.png")
    assert certify(photos / "a.png", photos / "z.png", "-o", tmp_path / "c.jsonl") == 0
    rows = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:4]]
    assert rows[0] == rows[1]
    assert len(fsfast.load_certificates(tmp_path / "c.jsonl")) == 1


def test_what_a_folder_of_features_holds_is_certified(photos, tmp_path, capsys):
    (photos / "b.png").unlink()
    common = [str(ENGINE), str(photos / "a.png"), str(photos / "c.png"), "--backend", "onnxruntime"]
    assert main(["encode", *common, "-o", str(tmp_path / "features")]) == 0
    assert certify(photos, "--served", tmp_path / "features", "-o", tmp_path / "c.jsonl") == 1
    assert "d.png: " in capsys.readouterr().err
    served = fsfast.FeatureFolder(tmp_path / "features").by_pixels
    for certificate in fsfast.load_certificates(tmp_path / "c.jsonl"):
        assert certificate.anchor.seed == int(served[certificate.grid_sha256].seeds[0])


def test_json_lines_are_certificates_alone(photos, capsys):
    assert certify(photos, "--json") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["format"] for line in lines] == ["fsfast-certificate"] * 3
