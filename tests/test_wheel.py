"""The wheel builds, installs into an empty environment, serves without torch, and exports with it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests import release


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the sources."""
    return release.source_archive(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what is in the archive: both must be complete."""
    folder = tmp_path_factory.mktemp("wheel")
    release.call("tar", "xzf", archive, cwd=folder)
    (sources,) = folder.iterdir()
    release.call(sys.executable, "-m", "build", "--no-isolation", "--wheel", sources, cwd=folder)
    (built,) = (sources / "dist").glob("fsfast-*.whl")
    return built


def test_what_the_wheel_holds(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "fsfast/py.typed",
        "fsfast/assets/engines/demo/engine.json",
        "fsfast/assets/engines/photo/engine.json",
        "fsfast/assets/examples/photo/goldfish.png",
        "fsfast/serve/page/index.html",
        "fsfast/schemas/engine.schema.json",
        "fsfast/serve/open_inference.binpb",
        "fsfast/serve/open_inference.proto",
        "fsfast/serve/page/index.html",
        "fsfast/serve/page/page.css",
        "fsfast/serve/page/page.js",
        "fsfast/export/__main__.py",
        "fsfast/export/recipes/llava-1.5.toml",
        "fsfast/export/class_names/imagenet.txt",
    ):
        assert part in names
    assert any("_cpu" in name and name.endswith(".so") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"fsfast"}
    assert wheel.stat().st_size < 45e6


def test_an_editable_install_is_a_line_of_the_path(archive, tmp_path):
    """Type checkers follow such a line, and no hook."""
    release.call("tar", "xzf", archive, cwd=tmp_path)
    (clone,) = tmp_path.iterdir()
    for source in ("bindings.cpp", "processor.cpp"):
        # Nothing is run: only how it would be found is looked at.
        (clone / "csrc" / source).write_text("")
    code = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    release.call(sys.executable, "-c", code, tmp_path, cwd=clone)
    (built,) = tmp_path.glob("fsfast-*.whl")
    with zipfile.ZipFile(built) as content:
        (line,) = (name for name in content.namelist() if "dist-info" not in name)
        assert content.read(line).decode() == f"{clone}\n"


@pytest.mark.slow
def test_it_exports(wheel, tmp_path):
    """From an environment that has everything else: the packages of this one, without its editable fsfast."""
    venv.create(tmp_path / "env")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    release.prove_exporting(tmp_path, tmp_path / "env" / "bin" / "python", "-m", "fsfast")


@pytest.mark.slow
def test_it_serves_the_built_in_engine_from_an_empty_environment(wheel, tmp_path):
    python = release.environment(sys.executable, tmp_path)
    release.install(python, f"{wheel}[cpu]", tmp_path)
    assert "torch" not in release.call(python, "-m", "pip", "list", cwd=tmp_path).lower().split()
    release.prove_serving(tmp_path, python.with_name("fsfast"))
    for line in ("export vit-b16-random", "export quantise demo --images . --out x"):
        done = subprocess.run(
            [python.with_name("fsfast"), *shlex.split(line)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "-m pip install" in done.stderr
        assert "torch>=" in done.stderr
