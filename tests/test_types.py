"""What type checkers see without torch, where fsfast is a line of the path, as `pip install -e` writes it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.test_snippets import PAGES, blocks

ROOT = Path(__file__).parents[1]
SEEN = """
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import assert_type

picture = np.zeros((8, 8, 3), np.uint8)
assert_type(out, fsfast.SmoothedFeatures)
assert_type(certificates, list[fsfast.Certificate])
for features in (encoder.encode("a.png"), encoder(Path("a.png")), encoder.encode(picture)):
    assert_type(features, fsfast.SmoothedFeatures)
assert_type(encoder.certify("a.png"), fsfast.Certificate)
assert_type(encoder.certify(Path("a.png"), n=10), fsfast.Certificate)
assert_type(encoder.certify(Image.open("a.png")), fsfast.Certificate)
assert_type(encoder.certify((picture,)), list[fsfast.Certificate])
# One image or a batch: only its shape says it.
assert_type(encoder.certify(picture), fsfast.Certificate | list[fsfast.Certificate])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The five lines of the README, and the types that they must have, in a folder beside an environment."""
    folder = tmp_path_factory.mktemp("types")
    venv.create(folder / "env")
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    for package in ("numpy", "PIL"):
        (site / package).symlink_to(Path(importlib.util.find_spec(package).origin).parent)
    (site / "__editable__.fsfast.pth").write_text(f"{ROOT}\n")
    (readme,) = (page for page in PAGES if page.name == "README.md")
    (lines,) = (block for block in blocks(readme, "python") if "encoder." in block)
    file = folder / "script.py"
    file.write_text(lines + SEEN)
    return file


def check(script: Path, *command: object) -> None:
    done = subprocess.run(
        [*map(str, command), script.name], cwd=script.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy(script):
    check(script, sys.executable, "-m", "mypy", "--strict", "--python-executable", "env/bin/python")


@pytest.mark.skipif(not shutil.which("node"), reason="pyright needs node")
def test_pyright(script):
    pytest.importorskip("pyright", reason="pip install pyright")
    check(script, sys.executable, "-m", "pyright", "--pythonpath", "env/bin/python")
