"""The snippets of the pages about vectors run, one after the other, as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs" / "stacks"


@pytest.fixture
def folder(tmp_path, monkeypatch, photograph):
    """The files that the pages name, and a folder of pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "cat.jpg"):
        shutil.copy(photograph, name)
    Path("secret").write_bytes(os.urandom(32))
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    with Image.open(photograph) as picture:
        for number in range(12):
            left, top = rng.integers(0, 200, 2)
            picture.crop((left, top, left + 100, top + 90)).save(f"pictures/{number}.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("page", "needs"),
    [
        ("vector-stores.md", ("pyarrow", "faiss", "lancedb")),
        ("sentence-transformers.md", ("sentence_transformers",)),
        ("langchain.md", ("langchain_core",)),
    ],
)
def test_python(page, needs, folder, small_path):
    for package in needs:
        pytest.importorskip(package, reason=f"needs {package}")
    session: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    assert blocks
    for block in blocks:
        # A smaller engine and fewer samples: the machinery is the same.
        block = block.replace('"photo"', repr(str(small_path))).replace("n=1000", "n=60")
        exec(compile(block, page, "exec"), session)
    session["encoder"].close()
