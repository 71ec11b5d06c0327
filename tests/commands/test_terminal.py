"""Names in files and of files are other people's: none of them steers a terminal."""

from __future__ import annotations

import json
import shutil

import pytest

import fsfast
from fsfast.cli import main
from fsfast.errors import brief, printable
from fsfast.report.markup import escape
from tests.written_before import FOLDER as DATA

RED, TURNED, SINGLE = "\x1b[31m", "\u202e", "\x9b"


def test_characters_that_steer_become_numbers():
    assert printable(f"a{RED}b{TURNED}c{SINGLE}d\n\te σ ≥ 犬 😀") == (
        "a\\u001b[31mb\\u202ec\\u009bd\n\te σ ≥ 犬 😀"
    )
    assert printable("\U000e0001") == "\\udb40\\udc01"
    assert printable("\udcff") == "\\udcff"
    assert escape(f"<{RED}") == "&lt;\\u001b[31m"


def test_what_libraries_say_is_cut():
    text = brief("first\n\n  second\x00 " + "x" * 10_000)
    assert text.startswith("first second\\u0000 xxx")
    assert len(text) == 400


@pytest.mark.parametrize("name", [f"{RED}red.png", f"{TURNED}gnp.exe", f"{SINGLE}31m.png", "two\nlines.png"])
def test_file_names(tmp_path, capfd, name):
    shutil.copy(DATA / "image.png", tmp_path / name)
    (tmp_path / f"bad{name}").write_text("no picture")
    engine, good, bad = str(DATA / "engine"), str(tmp_path / name), str(tmp_path / f"bad{name}")
    output = tmp_path / "lines.jsonl"
    assert main(["certify", engine, good, bad, "-n", "20", "-o", str(output)]) == 1
    assert main(["certify", engine, good, "-n", "20", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "image" in out
    for character in (RED[0], TURNED, SINGLE):
        assert character not in out + err
    # What is written keeps the name.
    assert fsfast.load_certificates(output)[0].image_name == good
    assert json.loads(out.splitlines()[-1])["image"]["name"] == good


def test_names_inside_a_certificate(tmp_path, capfd):
    record = json.loads((DATA / "certificate.json").read_text())
    record["engine"]["name"] = f"{RED}engine"
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(record))
    main(["verify", str(path), str(DATA / "image.png"), "--engine", str(DATA / "engine")])
    assert RED not in "".join(capfd.readouterr())
