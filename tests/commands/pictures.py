"""A folder of small pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def folder_of_pictures(parent: Path, *names: str) -> Path:
    """Make `photos` in a folder, with a PNG file of 8×9 pixels for each name; the same every time."""
    rng = np.random.default_rng(0)
    folder = parent / "photos"
    folder.mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(folder / f"{name}.png")
    return folder
