"""What travels to a machine without network: wheels of packages that it lacks, and the C++ kernels."""

import os
from importlib.metadata import requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import carried


@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [
        ("rich-15.0.0-py3-none-any.whl", (3, 12), True),
        ("sortedcontainers-2.4.0-py2.py3-none-any.whl", (3, 12), True),
        ("pillow-13.0.0-cp312-cp312-manylinux_2_28_x86_64.whl", (3, 12), True),
        ("pillow-13.0.0-cp312-cp312-manylinux_2_28_x86_64.whl", (3, 13), False),
        ("safetensors-0.8.0-cp310-abi3-manylinux2014_x86_64.whl", (3, 12), True),
        ("safetensors-0.8.0-cp310-abi3-manylinux2014_x86_64.whl", (3, 9), False),
    ],
)
def test_wheels_fit_their_python(name, version, wanted):
    assert carried.fits(Path(name), version) == wanted


# Whatever runs this test.
TARGET = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.3"}


def needs(name):
    """What a package needs in every case."""
    found = [Requirement(text) for text in requires(name) or []]
    return {r.name.lower() for r in found if r.marker is None or r.marker.evaluate(TARGET)}


def test_what_is_carried_needs_nothing_else():
    lines = (carried.ROOT / "benchmarks" / "gpu" / "carried.txt").read_text().splitlines()
    names = {line for line in lines if not line.startswith("#")}
    assert names
    # Wherever torch is, NumPy is.
    assert set.union(needs("fsfast"), *map(needs, names)) - {"numpy"} <= names


def wheel(folder, name):
    with ZipFile(folder / name, "w") as content:
        content.writestr(f"{name.partition('-')[0]}/__init__.py", "")


def test_only_what_is_missing_is_unpacked(tmp_path, capsys):
    """The machine's own packages fit its torch; another Python's would not load."""
    for name in ("numpy-9.0-py3-none-any.whl", "absent-1-py3-none-any.whl", "absent-1-cp27-cp27m-linux.whl"):
        wheel(tmp_path, name)
    assert carried.unpack(tmp_path, tmp_path / "site") == ["absent"]
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["absent"]
    assert "absent-1-cp27-cp27m-linux.whl: not for Python" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "kept"), [(-60, "carried"), (60, "built here")])
def test_kernels_are_put_beside_their_sources_unless_newer_ones_are_there(tmp_path, seconds, kept):
    carried_file, placed = (
        tmp_path / place / "fsfast" / "kernels" / "_cpu.so" for place in ("carried", "root")
    )
    for path, text in ((carried_file, "carried"), (placed, "built here")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    now = carried_file.stat().st_mtime
    os.utime(placed, (now + seconds, now + seconds))
    carried.place_kernels(tmp_path / "carried", tmp_path / "root")
    assert placed.read_text() == kept
    placed.unlink()
    carried.place_kernels(tmp_path / "carried", tmp_path / "root")
    assert placed.read_text() == "carried"
