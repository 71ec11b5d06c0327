"""How an image of another size is put on the grid: as the programs do that language models are served with."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fsfast.images.resampling import axis, resample

Fit = Literal["squash", "crop", "crop-floor", "pad"]
Colour = tuple[int, int, int]


def fitted(
    pixels: np.ndarray, size: tuple[int, int], fit: Fit, filter: str, colour: Colour
) -> tuple[np.ndarray, str]:
    """Return [H, W, 3] uint8, and what was done to the image.

    Args:
        pixels: [h, w, 3] uint8.
        size: H and W.
        fit: "squash": each side is scaled on its own.
            "crop": as CLIP, open_clip and torchvision prepare: scaled until the image covers the grid, the longer
            side cut to a whole number, and of what sticks out half is cut off on each side (halves of a pixel are
            rounded to even).
            "crop-floor": as transformers prepares: the same, but an odd pixel is cut off at the right or the bottom.
            "pad": as LLaVA prepares: first set in the middle of a canvas of the grid's proportions, then scaled.
        filter: a key of `FILTERS`.
        colour: of the canvas, 8 bits.

    Raises:
        ImageError: a side is too long.
    """
    (height, width), (rows, columns) = pixels.shape[:2], size
    if fit == "squash":
        vertical, horizontal = axis(height, rows, filter), axis(width, columns, filter)
        said = f"squashed to {rows}×{columns}"
    elif fit == "pad":
        # The smallest canvas of the grid's proportions that holds the image.
        canvas_height = max(height, _rounded(width * rows, columns))
        canvas_width = max(width, _rounded(height * columns, rows))
        top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
        vertical = axis(canvas_height, rows, filter).within(top, height)
        horizontal = axis(canvas_width, columns, filter).within(left, width)
        said = f"padded to {canvas_height}×{canvas_width} with colour {colour}, scaled to {rows}×{columns}"
    else:
        if rows * width >= columns * height:
            inner_height, inner_width = rows, rows * width // height
        else:
            inner_height, inner_width = columns * height // width, columns
        # Python rounds halves to even, as torchvision does.
        place = round if fit == "crop" else int
        top, left = place((inner_height - rows) / 2), place((inner_width - columns) / 2)
        vertical = axis(height, inner_height, filter, top, rows)
        horizontal = axis(width, inner_width, filter, left, columns)
        said = f"scaled to {inner_height}×{inner_width}, the middle {rows}×{columns} kept"
    return resample(pixels, vertical, horizontal, colour), f"{said}, {filter}"


def _rounded(numerator: int, denominator: int) -> int:
    """Return the nearest whole number, a half rounded up."""
    return (2 * numerator + denominator) // (2 * denominator)
