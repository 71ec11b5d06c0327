"""Encoded images in memory or behind an open file: their bytes, with the limits of files on disk."""

from __future__ import annotations

from typing import Any

from fsfast.errors import brief
from fsfast.images.decoding import MAX_FILE_BYTES, refusal

_CHUNK = 1 << 20


def encoded_bytes(image: Any) -> tuple[bytes, str, str] | None:
    """Return the bytes of an image that is still encoded, a label for messages, and "bytes" or "stream".

    An open file is read from its start where it can be rewound, else from where it stands; it is left open.

    Args:
        image: bytes, bytearray, memoryview, or an object whose `read` gives bytes; anything else gives None.

    Raises:
        ImageError: the file cannot be read, or there are too many bytes.
        TypeError: the file was opened as text.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        data, label, kind = bytes(image), f"{type(image).__name__} of length {len(image)}", "bytes"
    elif hasattr(image, "read"):
        label = name if isinstance(name := getattr(image, "name", None), str) else type(image).__name__
        data, kind = _read(image, label), "stream"
    else:
        return None
    if len(data) > MAX_FILE_BYTES:
        raise refusal(f"an image file of at most {MAX_FILE_BYTES} bytes", f"{label}: more", "scale it down")
    return data, label, kind


def _read(stream: Any, label: str) -> bytes:
    """Return what is in a stream, at most one chunk more than is allowed."""
    content = bytearray()
    try:
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
        while len(content) <= MAX_FILE_BYTES:
            chunk = stream.read(_CHUNK)
            if chunk is not None and not isinstance(chunk, bytes):
                raise TypeError(
                    f"wanted an open file that gives bytes, got {type(chunk).__name__} from {label}; "
                    "open(path, 'rb') reads bytes"
                )
            if not chunk:
                break
            content += chunk
    except (OSError, ValueError) as error:
        raise refusal(
            "a readable image file", f"{label}: {brief(error).rstrip('.')}", "open it again, for reading"
        ) from error
    return bytes(content)
