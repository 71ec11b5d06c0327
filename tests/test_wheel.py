"""The wheel builds, installs into an empty environment, and serves the built-in engine without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def call(*args: object, cwd: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FSFAST_SECRET")}
    done = subprocess.run(
        list(map(str, args)), capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source archive of the files that git knows."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # First the source archive, then the wheel from what is in it: both must be complete.
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (built,) = out.glob("fsfast-*.whl")
    return built


def test_what_the_wheel_holds(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "fsfast/py.typed",
        "fsfast/assets/engines/demo/engine.json",
        "fsfast/schemas/engine.schema.json",
    ):
        assert part in names
    assert any("_cpu" in name and name.endswith(".so") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"fsfast"}
    assert wheel.stat().st_size < 12e6


@pytest.mark.slow
def test_it_serves_the_built_in_engine_from_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{wheel}[cpu]")
    assert "torch" not in call(python, "-m", "pip", "list").lower().split()
    result = json.loads(
        call(tmp_path / "env" / "bin" / "fsfast", "demo", "--n", "50", "--json", cwd=tmp_path)
    )
    assert result["verify"] == "same"
    assert result["bit_equal_replay"] is True
    assert json.loads(call(tmp_path / "env" / "bin" / "fsfast", "doctor", "--json"))["kernels"][0] is True
