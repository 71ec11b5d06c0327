"""What a file is by its first bytes; for messages that refuse it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

HEAD_BYTES = 512
_SHOWN = 30
_AGAIN = "get it again"


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        what: in words, with an article.
        remedy: how to get the file that was meant; empty where nothing is known.
        as_image: how it becomes an image that can be read.
        image: whether it is one.
    """

    what: str
    remedy: str = ""
    as_image: str = "convert it to PNG"
    image: bool = False


_EMPTY = FileKind("an empty file", _AGAIN)
_POINTER = FileKind("a pointer of git-lfs, not the file itself", "run: git lfs pull")
_PAGE = FileKind(
    "a web page: the download failed", "download the file itself (some sites want a login first)"
)
_RENDER = "render it to PNG first"
_DRAWING = FileKind("an SVG drawing", as_image=_RENDER)
_HEIC = FileKind(
    "a HEIC photograph", as_image="it needs pillow-heif (pip install pillow-heif); or convert it to JPEG"
)
_AVIF = FileKind("an AVIF image", image=True)
_FILM = FileKind("a film", as_image="take a frame of it, as PNG")
FEATURES = FileKind("a file of smoothed features")
CERTIFICATE = FileKind("a certificate of fsfast")
MANIFEST = FileKind("the manifest of an engine")
ONNX = FileKind("an ONNX graph")
_OURS = {
    b"fsfast-certificate": CERTIFICATE,
    b"fsfast-engine": MANIFEST,
}
# What files of a kind begin with.
_BEGINNINGS = {
    b"\x89PNG\r\n": FileKind("a PNG image", image=True),
    b"\xff\xd8\xff": FileKind("a JPEG image", image=True),
    b"GIF8": FileKind("a GIF image", image=True),
    b"BM": FileKind("a BMP image", image=True),
    b"II*\0": FileKind("a TIFF image", image=True),
    b"MM\0*": FileKind("a TIFF image", image=True),
    b"\0\0\0\x0cJXL ": FileKind("a JPEG XL image"),
    b"\xff\x0a": FileKind("a JPEG XL image"),
    b"\0\0\1\0": FileKind("an icon (ICO)"),
    b"8BPS": FileKind("a Photoshop document"),
    b"%PDF-": FileKind("a PDF document", as_image=_RENDER),
    b"%!PS": FileKind("a PostScript document", as_image=_RENDER),
    b"\x93NUMPY": FileKind("a NumPy array", as_image="load it with numpy.load, and hand over the array"),
    b"GGUF": FileKind("a GGUF file of llama.cpp"),
    b"\x89HDF\r\n": FileKind("an HDF5 file"),
    b"PK\3\4": FileKind("a zip archive", as_image="unpack it"),
    b"\x1f\x8b": FileKind("a gzip archive", as_image="unpack it"),
}
# The version of the format, then a text about the producer, the graph or a set of operators.
_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x32\x3a\x42]")
_DECLARED = re.compile(rb'\s*\{\s*"format":\s*"(fsfast-\w+)"')
_ZIPPED_NAME = 30


def recognise(head: bytes) -> FileKind | None:
    """Return what a file is that begins so, or None where nothing is known.

    Args:
        head: its first HEAD_BYTES bytes, or all of them.
    """
    if not head:
        return _EMPTY
    if head.startswith(b"version https://git-lfs"):
        return _POINTER
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _AVIF if brand.startswith(b"avi") else _HEIC if brand[:2] in (b"he", b"mi", b"ms") else _FILM
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return FileKind("a WebP image", image=True)
    if head.startswith(b"PK\3\4") and head[_ZIPPED_NAME:].startswith(b"features.npy"):
        return FEATURES
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        # The library writes what it says about itself in any order.
        ours = b"fsfast-features" in head or b"seed_origins" in head
        return FEATURES if ours else FileKind("a safetensors file of something else")
    if _ONNX.match(head):
        return ONNX
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    return _text(head)


def recognise_file(path: str | os.PathLike[str]) -> FileKind | None:
    """Return what a file is, or None where nothing is known or it cannot be read."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as handle:
            return recognise(handle.read(HEAD_BYTES))
    except OSError:
        return None


def _text(head: bytes) -> FileKind | None:
    if not all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return None
    if declared := _DECLARED.match(head):
        return _OURS.get(declared[1], FileKind("another file of fsfast"))
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        return _DRAWING if b"<svg" in text else _PAGE
    begin = text[:_SHOWN].decode("utf-8", "replace").splitlines()
    return FileKind(f"text that begins with {begin[0] if begin else ''!r}")
