"""Attacked images on the disk: PNG, which keeps every level."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def as_png(pixels: np.ndarray) -> bytes:
    """Return [H, W, 3] uint8 as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_png(path: Path) -> np.ndarray:
    """Return a PNG's [H, W, 3] uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
