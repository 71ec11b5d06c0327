"""What a host hands to its vision tower becomes the levels of the engine's grid again."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from fsfast.engine.manifest import Manifest
from fsfast.errors import FsfastError, ImageError
from fsfast.images.arrays import as_numpy, from_pixel_values
from fsfast.images.decoding import refusal

# "levels": whole numbers 0 … 255 of any type. "normalised": (v/255 − mean)/std with those of the engine.
Form = Literal["levels", "normalised"]

_BFLOAT16 = (
    "keep pixel values in float32 up to the tower, or set do_rescale = do_normalize = False in the image processor and "
    "declare the form 'levels'"
)


def to_levels(x: Any, form: Form, manifest: Manifest) -> np.ndarray:
    """Return the images in a batch of pixel values, as the engine takes them.

    Args:
        x: an array or tensor on any device. "levels": [B, 3, H, W] or [B, H, W, 3], uint8 or whole numbers of any
            type. "normalised": [B, 3, H, W] in float16, float32 or float64.
        form: which of the two the host hands over; it is declared, never guessed.
        manifest: of the engine: H and W of its grid, mean and std.

    Returns:
        [B, H, W, 3] uint8.

    Raises:
        ImageError: another size, shape or type, NaN, or numbers that are no levels (in normalised bfloat16 neighbouring
            levels collide).
        FsfastError: x requires gradients, which would end here without a word.
        TypeError: not an array or tensor.
        ValueError: another form.
    """
    if form not in get_args(Form):
        raise ValueError(
            f"wanted the form of pixel values as one of {', '.join(get_args(Form))}, got {form!r}"
        )
    if getattr(x, "requires_grad", False):
        raise FsfastError(
            "wanted pixel values without gradients, got a tensor that requires them: an attack through the tower would "
            "see none; take the torch networks of fsfast.models for white-box attacks"
        )
    short = "bfloat16" in str(getattr(x, "dtype", ""))
    if form == "levels":
        return _whole(as_numpy(x.float() if short else x)[0], manifest.grid.size)
    if short:
        raise refusal("normalised pixel values in float32", f"bfloat16 {list(x.shape)}", _BFLOAT16)
    values, _ = as_numpy(x)
    if values.shape[1:] != (3, *manifest.grid.size):
        raise _other_shape("[B, 3, {}, {}]", manifest.grid.size, values)
    return from_pixel_values(values, manifest.mean, manifest.std)


def _whole(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return whole numbers 0 … 255, channels first or last, as uint8 with the channels last."""
    first, last = (shape == values.shape[1:] for shape in ((3, *size), (*size, 3)))
    if first == last or not len(values):
        raise _other_shape("levels [B, 3, {0}, {1}] or [B, {0}, {1}, 3]", size, values)
    levels = np.moveaxis(values, 1, -1) if first else values
    if levels.dtype == np.uint8:
        return levels
    with np.errstate(invalid="ignore"):
        whole = levels.astype(np.uint8)
    off = int((whole != levels).sum())
    if levels.dtype.kind not in "fiu" or off:
        raise refusal(
            "levels as uint8, or as whole numbers 0 … 255",
            f"{levels.dtype}, {off} of {levels.size} values no levels",
            "where the image processor rescales and normalises, declare the form 'normalised'",
        )
    return whole


def _other_shape(wanted: str, size: tuple[int, int], values: np.ndarray) -> ImageError:
    return refusal(
        wanted.format(*size),
        f"shape {list(values.shape)}",
        "set the image processor to the size of the engine's grid, or export an engine with a grid of this size",
    )
