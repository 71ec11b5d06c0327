"""What counts as an image, and how it is put on the engine's grid.

Order: decode (first frame), EXIF rotation, 8 bits, alpha over white, RGB, fit. A step that is not needed is
not taken: an image that already has the grid's size keeps every bit. ICC profiles are ignored: the numbers in
the file are read as sRGB. Colour with 16 bits per channel is cut to its high byte by Pillow; 16-bit grey is
rounded. A certificate speaks of the pixels on the grid, not of the original file.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
from PIL import Image

from fsfast.errors import ImageError, printable
from fsfast.images.arrays import decode_array, wrong_shape
from fsfast.images.decoding import decode_bytes, decode_file, decode_pil
from fsfast.images.fits import Colour, Fit, fitted
from fsfast.images.pillow_fits import fit_with_pillow
from fsfast.images.resampling import FILTERS
from fsfast.images.streams import encoded_bytes

# What makes the pixels of the grid where an image has another size: 1, Pillow's resize with fits of its own; 2, exact
# tables and the hosts' fits. A certificate records which; 1 where it records none.
RESIZE = 2
# Nearly 0 after the normalisation of CLIP and on the purifier's scale of [−1, 1].
MIDDLE_GREY: Colour = (128, 128, 128)


# Pixels; no network comes near it.
MAX_GRID = 178_956_970


@dataclass(frozen=True)
class Grid:
    """The smoothing grid of an engine: its size, and how other sizes are fitted to it.

    Attributes:
        height: pixels, ≥ 1.
        width: pixels, ≥ 1.
        fit: "squash" scales both sides independently; "crop" scales until the image covers the grid and keeps
            the middle ("crop-floor": at transformers' whole-number place); "pad" sets it on a canvas of the grid's
            proportions, and scales that.
        filter: bicubic, bilinear, box, hamming or lanczos; always antialiased.
        colour: red, green and blue of the canvas, 0 … 255; only with "pad".

    Raises:
        ValueError: a size below 1 or too large, or an unknown name.
    """

    height: int
    width: int
    fit: Fit = "squash"
    filter: str = "bicubic"
    colour: Colour = MIDDLE_GREY

    def __post_init__(self) -> None:
        if not (self.height >= 1 and self.width >= 1 and self.height * self.width <= MAX_GRID):
            raise ValueError(
                f"wanted a grid of 1 to {MAX_GRID} pixels, got {self.height}×{self.width} (height×width)"
            )
        if self.fit not in get_args(Fit):
            raise ValueError(f"wanted fit to be one of {', '.join(get_args(Fit))}; got {self.fit!r}")
        if self.filter not in FILTERS:
            raise ValueError(f"wanted filter to be one of {', '.join(FILTERS)}; got {self.filter!r}")
        object.__setattr__(self, "colour", tuple(self.colour))
        if len(self.colour) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in self.colour):
            raise ValueError(f"wanted colour as three levels 0 … 255, got {self.colour}")
        if self.fit != "pad" and self.colour != MIDDLE_GREY:
            raise ValueError(f"wanted a colour with fit = pad only, got {self.colour} with {self.fit}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def to_record(self) -> dict[str, Any]:
        """Return the grid as engine.json has it."""
        record = asdict(self)
        return record if self.fit == "pad" else {k: v for k, v in record.items() if k != "colour"}


@dataclass(frozen=True, eq=False)
class GridImage:
    """An image on the grid, and where it came from.

    Attributes:
        pixels: [H, W, 3] uint8, C-contiguous, read-only, not shared with the input.
        name: the path for files, else what the caller gave.
        source: JSON-able. kind (file | bytes | stream | pil | array | tensor), size [h, w] before rotation and
            fitting, mode (Pillow's mode, or the dtype), steps (what was done, in order); format where there is
            one; sha256 of the bytes for files, bytes and streams; resize (`RESIZE`) where the size changed.
    """

    pixels: np.ndarray
    name: str | None
    source: dict[str, Any]

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        steps = ", ".join(self.source.get("steps", ())) or "as it came"
        return f"GridImage({printable(self.name or self.source.get('kind', 'image'))}: {height}×{width}, {steps})"

    @cached_property
    def grid_sha256(self) -> str:
        """The sha256 of the H·W·3 bytes of `pixels` in row-major order, hexadecimal."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def to_grid(images: object, grid: Grid, resize: int = RESIZE) -> tuple[list[GridImage], bool]:
    """Put one image, or several, on the grid.

    Args:
        images: see `as_list`.
        grid: the engine's grid.
        resize: as in `to_grid_image`.

    Returns:
        The images, and whether the input was a single one.

    Raises:
        ImageError, TypeError: as `to_grid_image`, naming the position in the list.
    """
    items, single = as_list(images)
    if single:
        return [to_grid_image(items[0], grid, resize=resize)], True
    result = []
    for position, item in enumerate(items):
        try:
            result.append(to_grid_image(item, grid, resize=resize))
        except (ImageError, TypeError) as error:
            raise type(error)(f"image {position} of {len(items)} (counted from 0): {error}") from error
    return result, False


def as_list(images: object) -> tuple[list[Any], bool]:
    """Split the input into single images, without decoding any.

    Args:
        images: a path, an encoded image (bytes, or a file open for reading them), a PIL image, an array or tensor
            [H, W, 3] or [B, H, W, 3] (the same as a list of B), or a list or tuple of these; batches inside a list
            are spliced in.

    Returns:
        The images in order, and whether the input was a single one.

    Raises:
        ImageError: no images at all, or a batch whose last axis is not 3.
        TypeError: a list inside a list.
    """
    if not isinstance(images, (list, tuple)):
        return _split(images)
    items: list[Any] = []
    for item in images:
        if isinstance(item, (list, tuple)):
            raise TypeError(
                f"wanted a list of images, got a {type(item).__name__} inside it; flatten it, or turn nested "
                "numbers into an array with np.asarray(..., dtype=np.uint8)"
            )
        items += _split(item)[0]
    if not items:
        raise ImageError("wanted at least one image, got an empty list")
    return items, False


def _split(image: Any) -> tuple[list[Any], bool]:
    if getattr(image, "ndim", 3) != 4:
        return [image], True
    shape = tuple(image.shape)
    if shape[0] == 0:
        raise ImageError(f"wanted at least one image, got an empty batch of shape {list(shape)}")
    if shape[-1] != 3:
        raise wrong_shape("a batch [B, H, W, 3]", image, batch=1)
    return [image[i] for i in range(shape[0])], False


def to_grid_image(image: Any, grid: Grid, name: str | None = None, resize: int = RESIZE) -> GridImage:
    """Decode one image and fit it to the grid.

    Args:
        image: a path; an encoded image as bytes or behind an open file; a PIL image (the frame it stands at); an
            array or tensor [H, W, 3], uint8, or float32 or float64 in [0, 1] that lies on the 1/255 grid within
            1e-3 levels; a GridImage of this size, which is returned as it is.
        grid: the engine's grid.
        name: what to call it; a path is its own name unless one is given.
        resize: how other sizes are resized; 1 only to replay certificates of that time.

    Returns:
        The grid image, with a record of what was done to it.

    Raises:
        ImageError: it cannot be put on the grid without guessing: unreadable, truncated, too large, empty,
            wrong dtype, shape or range, or floats off the grid.
        TypeError: not a kind of object that holds an image.
    """
    if isinstance(image, GridImage) and image.pixels.shape == (*grid.size, 3):
        return image
    if isinstance(image, GridImage):
        image = image.pixels
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        pixels, source = decode_file(path)
        name = path if name is None else name
    elif isinstance(image, Image.Image):
        pixels, source = decode_pil(image, "the PIL image")
    elif encoded := encoded_bytes(image):
        pixels, source = decode_bytes(*encoded)
    else:
        pixels, source = decode_array(image)
    if pixels.shape[:2] != grid.size:
        pixels = _resized(pixels, grid, resize, source)
    # Always a copy: later writes to the caller's array must not reach the grid, nor the other way round.
    own = np.array(pixels, dtype=np.uint8, order="C")
    own.setflags(write=False)
    return GridImage(own, name, source)


def _resized(pixels: np.ndarray, grid: Grid, resize: int, source: dict[str, Any]) -> np.ndarray:
    """Return [grid.height, grid.width, 3] uint8, and add to the source record what was done."""
    if resize == 1:
        source["steps"].append(f"{grid.fit} to {grid.height}x{grid.width}, {grid.filter}")
        return fit_with_pillow(pixels, grid.size, grid.fit, grid.filter)
    on_grid, said = fitted(pixels, grid.size, grid.fit, grid.filter, grid.colour)
    source["steps"].append(said)
    source["resize"] = resize
    return on_grid
