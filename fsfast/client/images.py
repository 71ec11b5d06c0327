"""An image on its way to a server: a file as it is, pixels as PNG, which keeps every one of them."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fsfast.images.arrays import decode_array
from fsfast.images.decoding import decode_pil, read_file
from fsfast.images.grid import GridImage
from fsfast.images.streams import encoded_bytes


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image as it is sent.

    Attributes:
        file: the bytes of an image file.
        grid: the image on the grid where the caller has put it there, or None.
    """

    file: bytes
    grid: GridImage | None = None


def encoded_image(image: Any) -> Encoded:
    """Return one image as it is sent.

    Args:
        image: as in `SmoothedEncoder.encode`.

    Raises:
        ImageError, TypeError: it is no image, or a file that cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return Encoded(read_file(os.fsdecode(image)))
    if encoded := encoded_bytes(image):
        return Encoded(encoded[0])
    if isinstance(image, GridImage):
        return Encoded(_as_png(image.pixels), image)
    pixels, _ = decode_pil(image, "the PIL image") if isinstance(image, Image.Image) else decode_array(image)
    return Encoded(_as_png(pixels))


def _as_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
