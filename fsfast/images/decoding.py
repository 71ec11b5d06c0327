"""Files and PIL images become [h, w, 3] uint8: first frame, EXIF rotation, 8 bits, alpha over white, RGB."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from fsfast.budgets import Budget
from fsfast.errors import ImageError, brief
from fsfast.file_kind import HEAD_BYTES, recognise

# Larger images are refused by their header, before a pixel is decoded; Pillow itself refuses beyond 178,956,970.
PIXELS = Budget("FSFAST_MAX_PIXELS", 1 << 26, "pixels")
# Files are read at once, so that the recorded sha256 is that of the bytes that were decoded.
MAX_FILE_BYTES = 1 << 30
# Raster formats only: others (EPS, WMF) would be rendered by outside programs.
# HEIF is known where its plugin is registered (pillow_heif.register_heif_opener()).
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")

_ORIENTATION = 0x0112
# EXIF orientation → what undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of TIFF, and the value of the second where 0 is white.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_GREY16 = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def decode_file(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels [h, w, 3] uint8 of a file's first frame, and the source record.

    Raises:
        ImageError: missing, not a regular file, too large, of an unknown format, truncated or damaged.
    """
    return decode_bytes(read_file(path), path, "file")


def decode_bytes(data: bytes, label: str, kind: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels [h, w, 3] uint8 of an encoded image's first frame, and the source record.

    Args:
        data: what stands in a file.
        label: names the image in messages.
        kind: of the source, for its record.

    Raises:
        ImageError: of an unknown format, truncated or damaged.
    """
    with _translated(label, data):
        # Headers of other formats are not even looked at: their readers are not ours to answer for.
        Image.init()
        image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    pixels, source = decode_pil(image, label)
    return pixels, source | {"kind": kind, "sha256": hashlib.sha256(data).hexdigest()}


def decode_pil(image: Image.Image, label: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels [h, w, 3] uint8 of the frame that a PIL image stands at, and the source record.

    Raises:
        ImageError: no pixels, too many, or damaged; `label` names the image.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise refusal("an image with pixels", f"{label}: {height}×{width}", "check how it was made")
    if width * height > PIXELS.limit:
        raise _too_large(f"{label}: {height}×{width}")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        remedy = "set it to False: damaged files would be filled up with grey"
        raise refusal("PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be False", "True", remedy)
    steps: list[str] = []
    source: dict[str, Any] = {"kind": "pil", "size": [height, width], "mode": image.mode, "steps": steps}
    if image.format:
        source["format"] = image.format
    with _translated(label):
        if getattr(image, "is_animated", False):
            steps.append(f"frame {image.tell()} only")
        image.load()
        return _to_rgb(_rotated(image, steps), label, steps), source


def refusal(wanted: str, got: str, remedy: str) -> ImageError:
    """Return an error that says what was wanted, what came, and the remedy."""
    return ImageError(f"wanted {wanted}, got {got}; {remedy}")


def _too_large(what: str) -> ImageError:
    wanted = f"at most {PIXELS.limit:.0f} pixels"
    return refusal(wanted, what, f"scale it down first, or raise {PIXELS.variable} where you trust its maker")


def read_file(path: str) -> bytes:
    """Return the bytes of a regular file of sensible size.

    Raises:
        ImageError: missing, not a regular file, too large, or it cannot be read.
    """
    try:
        status = os.stat(path)
        regular = stat.S_ISREG(status.st_mode)
        # Opening anything else could wait for ever (a pipe) or never end (a device).
        data = Path(path).read_bytes() if regular and status.st_size <= MAX_FILE_BYTES else b""
    except FileNotFoundError as error:
        raise refusal("the path of an image file", f"{path}: no such file", "check the path") from error
    except (OSError, ValueError) as error:
        raise refusal("a readable image file", f"{path!r}: {error}", "check the path and its mode") from error
    if stat.S_ISDIR(status.st_mode):
        raise refusal("the path of an image file", f"{path}: a directory", "name the files in it")
    if not regular:
        raise refusal("the path of an image file", f"{path}: not a regular file", "copy it to a file")
    if status.st_size > MAX_FILE_BYTES:
        raise refusal(
            f"a file of at most {MAX_FILE_BYTES} bytes", f"{path}: {status.st_size}", "scale the image down"
        )
    return data


@contextmanager
def _translated(label: str, data: bytes | None = None) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError: damaged files raise nearly every kind of exception.

    Args:
        label: names the image.
        data: the file, where it is one that Pillow is to recognise.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(f"{label}: {brief(error)}") from error
    except UnidentifiedImageError as error:
        raise _not_one_of_ours(label, data) from error
    except Exception as error:
        what = f"{label}: truncated or damaged ({type(error).__name__}: {brief(error)})"
        raise refusal("a complete image", what, "fetch or export it again") from error


def _not_one_of_ours(label: str, data: bytes | None) -> ImageError:
    """Return the error about a file that Pillow cannot identify; it says what the file is instead."""
    wanted = f"an image ({', '.join(FORMATS)})"
    kind = None if data is None else recognise(data[:HEAD_BYTES])
    if kind is None:
        return refusal(wanted, f"{label}: Pillow cannot identify it as one of these", "convert it to PNG")
    if kind.image:
        what = f"{label}: {kind.what} that Pillow cannot identify"
        return refusal(wanted, what, "fetch or export it again, or convert it to PNG")
    return refusal(wanted, f"{label}: {kind.what}", kind.remedy or kind.as_image)


def _rotated(image: Image.Image, steps: list[str]) -> Image.Image:
    """Apply the EXIF orientation, if there is one."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Viewers show such images as they are stored; so do we, and say so.
        steps.append("exif unreadable: not rotated")
        return image
    if orientation not in _UPRIGHT:
        return image
    steps.append(f"exif orientation {orientation} applied")
    # ImageOps.exif_transpose writes the whole EXIF anew, and some versions refuse odd numbers in it.
    return image.transpose(_UPRIGHT[orientation])


def _to_rgb(image: Image.Image, label: str, steps: list[str]) -> np.ndarray:
    """Return [h, w, 3] uint8: 16 bits to 8, alpha over white, every colour model to RGB."""
    mode = image.mode
    if mode == "F":
        what = f"{label} with floating-point pixels (mode F), whose range is unknown"
        raise refusal("8- or 16-bit pixels", what, "scale them to 0 … 255 and convert to mode L")
    if mode in _GREY16:
        return _from_grey16(image, label, steps)
    transparent = mode in ("1", "L", "RGB", "P") and image.has_transparency_data
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or transparent:
        if max(np.atleast_1d(_transparent_level(image))) > 255:
            what = f"{label}: 16-bit colour with one transparent colour"
            raise refusal("8-bit colours or an alpha channel", what, "convert it to RGBA")
        rgba = (image.convert("LA") if mode == "La" else image).convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        steps.append("alpha composed on white")
        return np.asarray(white)
    if mode != "RGB":
        steps.append(f"{mode} converted to RGB")
        image = image.convert("RGB")
    return np.asarray(image)


def _transparent_level(image: Image.Image) -> Any:
    """Return the levels of the colour that counts as transparent, or 0 where it is not given in levels."""
    level = image.info.get("transparency", 0)
    return 0 if isinstance(level, bytes) else level


def _from_grey16(image: Image.Image, label: str, steps: list[str]) -> np.ndarray:
    """Return [h, w, 3] uint8 from grey levels 0 … top: 255v/top, rounded (top is odd: there are no ties)."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        what = f"{label} with whole numbers of 32 bits (mode I), whose range is unknown"
        raise refusal("8- or 16-bit pixels", what, "scale them to 0 … 255 and convert to mode L")
    values, top = np.asarray(image).astype(np.int32), 2**bits - 1
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > top:
        what = f"{low} … {high} in {label}"
        raise refusal(f"grey levels in 0 … {top}", what, "scale them to 0 … 255 and convert to mode L")
    steps.append(f"{bits}-bit grey scaled to 8 bits")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        # Pillow turns fewer bits round by itself.
        steps.append("0 was white")
        values = top - values
    grey = ((510 * values + top) // (2 * top)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
        steps.append("alpha composed on white")
    return np.repeat(grey[:, :, None], 3, axis=2)
