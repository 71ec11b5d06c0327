"""A folder with five small images, and what is none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def png(level: int) -> bytes:
    """Return a grey image as a file."""
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def make_photos(folder: Path) -> Path:
    """Make the folder, and return it."""
    (folder / "below").mkdir(parents=True)
    for level, name in enumerate(("c.png", "a.png", "b.PNG", "below/e.png", "below/d.png")):
        (folder / name).write_bytes(png(level))
    for name in (".hidden.png", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    return folder
