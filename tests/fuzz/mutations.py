"""Small changes of bytes and of JSON documents, each a function of a random generator alone."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

import numpy as np

# What readers stumble over: extremes, other types, numbers that are none.
ODD_VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, -0.5, 1.0, 1e-300, 1e300, 3.0000000001),
    *(True, False, None, "", "0", "a", "\x1b[31m", "\u202e", "../x", "x" * 5000, [], {}, [0], [[]], {"a": 0}),
)
# Written as they are: JSON's own writer would not.
ODD_TEXTS = (b"1e400", b"-1e400", b"NaN", b"Infinity", b"1.0000000000000001", b"00", b'"\\ud800"', b"1e-400")


def changed_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with one change: bits flipped, a run overwritten, cut out, doubled, or the end cut off."""
    data = bytearray(content)
    if not data:
        return bytes(rng.bytes(4))
    place = int(rng.integers(len(data)))
    length = int(min(len(data) - place, 1 << int(rng.integers(0, 8))))
    match int(rng.integers(6)):
        case 0:
            data[place] ^= 1 << int(rng.integers(8))
        case 1:
            data[place : place + length] = rng.bytes(length)
        case 2:
            del data[place : place + length]
        case 3:
            data[place:place] = data[place : place + length]
        case 4:
            del data[place:]
        case _:
            width = int(rng.choice([1, 2, 4, 8]))
            data[place : place + width] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * width
    return bytes(data)


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything in a document that holds nothing else."""
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    found = [place for key, value in items for place in leaves(value, (*path, key))]
    return found or [path]


def changed_leaf(document: Any, rng: np.random.Generator) -> tuple[bytes, tuple[Any, ...]]:
    """Return a document, as JSON, with one leaf changed, removed or written oddly, and the path of the leaf."""
    path = leaves(document)[int(rng.integers(len(leaves(document))))]
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    marker = "\x00here\x00"
    choice = int(rng.integers(4))
    if choice == 0 and isinstance(inner, dict):
        del inner[path[-1]]
    elif choice == 1:
        inner[path[-1]] = marker
        text = ODD_TEXTS[int(rng.integers(len(ODD_TEXTS)))]
        return json.dumps(changed).encode().replace(json.dumps(marker).encode(), text), path
    elif choice == 2 and isinstance(inner[path[-1]], (int, float)) and not isinstance(inner[path[-1]], bool):
        inner[path[-1]] = inner[path[-1]] * (1 + float(rng.normal()) * 10.0 ** -int(rng.integers(0, 12)))
    else:
        inner[path[-1]] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    return json.dumps(changed).encode(), path


def changed_safetensors(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a safetensors file with a changed header: a leaf, or the length that it gives."""
    (size,) = struct.unpack("<Q", content[:8])
    if rng.integers(4) == 0:
        length = (0, 1, max(size - 1, 0), size + 8, 1 << 31, (1 << 64) - 1)[int(rng.integers(6))]
        return struct.pack("<Q", length) + content[8:]
    header, _ = changed_leaf(json.loads(content[8 : 8 + size]), rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]
