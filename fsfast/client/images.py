"""An image on its way to a server: a file as it is, pixels as PNG, which keeps every one of them."""

from __future__ import annotations

import io
import os
from typing import Any

from PIL import Image

from fsfast.images.arrays import decode_array
from fsfast.images.decoding import decode_pil, read_file
from fsfast.images.grid import GridImage
from fsfast.images.streams import encoded_bytes


def encoded_image(image: Any) -> bytes:
    """Return one image as the bytes of an image file.

    Args:
        image: as in `SmoothedEncoder.encode`.

    Raises:
        ImageError, TypeError: it is no image, or a file that cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_file(os.fsdecode(image))
    if encoded := encoded_bytes(image):
        return encoded[0]
    if isinstance(image, GridImage):
        pixels = image.pixels
    elif isinstance(image, Image.Image):
        pixels, _ = decode_pil(image, "the PIL image")
    else:
        pixels, _ = decode_array(image)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
