"""Qt's compiled resource files (.rcc), as far as pictures need it: what `rcc --binary` writes, versions 1 to 3.

The format is Qt's own, of its QResource: a header, a tree of nodes, their names, their contents.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_COMPRESSED, _DIRECTORY, _COMPRESSED_ZSTD = 1, 2, 4
# No picture is larger; a damaged size must not fill the memory.
_LARGEST = 1 << 28


def read_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file of a resource file, in the order of its tree.

    Raises:
        ValueError: it is no such file, it is damaged, or a file in it is compressed by zstd.
    """
    try:
        yield from _walk(content)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"wanted a Qt resource file, got a damaged one: {error}") from None


def _walk(content: bytes) -> Iterator[tuple[str, bytes]]:
    magic, version, tree, data, names = struct.unpack_from(">4s4I", content)
    if magic != b"qres" or version not in (1, 2, 3):
        raise ValueError(
            f"wanted a Qt resource file (qres, version 1 to 3), got {magic!r}, version {version}"
        )
    node = 14 if version == 1 else 22
    # (node, path of its parent); the root has no name of its own.
    waiting, seen = [(0, "")], 0
    while waiting:
        place, parent = waiting.pop()
        seen += 1
        if seen * node > len(content):
            raise ValueError("wanted a Qt resource file, got one whose tree has a circle")
        name_offset, flags = struct.unpack_from(">IH", content, tree + node * place)
        path = f"{parent}/{_name(content, names + name_offset)}" if place else ""
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", content, tree + node * place + 6)
            if (first + count) * node > len(content):
                raise ValueError("wanted a Qt resource file, got one whose tree is cut off")
            waiting += [(child, path) for child in reversed(range(first, first + count))]
        else:
            (offset,) = struct.unpack_from(">I", content, tree + node * place + 10)
            yield path.lstrip("/"), _file(content, data + offset, flags)


def _name(content: bytes, offset: int) -> str:
    (length,) = struct.unpack_from(">H", content, offset)
    return content[offset + 6 : offset + 6 + 2 * length].decode("utf-16-be")


def _file(content: bytes, offset: int, flags: int) -> bytes:
    (length,) = struct.unpack_from(">I", content, offset)
    stored = content[offset + 4 : offset + 4 + length]
    if len(stored) != length:
        raise ValueError("wanted a Qt resource file, got one that is cut off")
    if flags & _COMPRESSED_ZSTD:
        raise ValueError("a file in a Qt resource file is compressed by zstd; wanted zlib or none")
    if flags & _COMPRESSED:
        # Four bytes say the size before.
        return zlib.decompressobj().decompress(stored[4:], _LARGEST)
    return stored
