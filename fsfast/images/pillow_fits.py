"""How images came onto the grid up to version 0.1 (resize 1): by Pillow's resize, with fits that no host has.

Kept so that certificates of that time can be replayed: with the version of Pillow that made them, or one that resizes
alike.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

PAD_VALUE = 128


def fit_with_pillow(pixels: np.ndarray, size: tuple[int, int], fit: str, filter: str) -> np.ndarray:
    """Return [H, W, 3] uint8.

    Args:
        pixels: [h, w, 3] uint8.
        size: H and W.
        fit: "squash", "crop": a box of the grid's proportions is resized, "pad": with grey, after the resize.
        filter: a name of `PIL.Image.Resampling`.

    Raises:
        ValueError: another fit.
    """
    (height, width), image = pixels.shape[:2], Image.fromarray(pixels)
    resample = Image.Resampling[filter.upper()]
    scales = (size[0] / height, size[1] / width)
    if fit == "squash":
        return np.asarray(image.resize(size[::-1], resample))
    if fit == "crop":
        # Only the box that is kept is resized; a whole-number corner makes a crop without scaling exact.
        box_width = min(float(width), size[1] / max(scales))
        box_height = min(float(height), size[0] / max(scales))
        left, upper = (width - box_width) // 2, (height - box_height) // 2
        box = (left, upper, left + box_width, upper + box_height)
        return np.asarray(image.resize(size[::-1], resample, box=box))
    if fit != "pad":
        raise ValueError(f"Pillow's resize never knew the fit {fit}")
    inner_width = max(1, min(size[1], round(width * min(scales))))
    inner_height = max(1, min(size[0], round(height * min(scales))))
    canvas = np.full((*size, 3), PAD_VALUE, np.uint8)
    left, upper = (size[1] - inner_width) // 2, (size[0] - inner_height) // 2
    inner = np.asarray(image.resize((inner_width, inner_height), resample))
    canvas[upper : upper + inner_height, left : left + inner_width] = inner
    return canvas
