"""The wire format of protobuf: fields one after the other, read and written.

https://protobuf.dev/programming-guides/encoding; what the fields mean, and which there may be, others know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        index: its number.
        value: the number of a varint; the bytes of everything else.
        whole: its bytes, with number and length.
    """

    index: int
    value: int | memoryview
    whole: memoryview

    @property
    def content(self) -> memoryview:
        """The bytes of a field that holds some; raises ValueError."""
        if isinstance(self.value, int):
            raise ValueError(f"wanted bytes in field {self.index}, got a number")
        return self.value


def fields(
    content: memoryview, allow: Callable[[int, int], None] = lambda index, wire: None
) -> Iterator[Field]:
    """Yield the fields of a message.

    Args:
        content: of the message.
        allow: called with number and wire type of each before its value is read; it raises where one is unwanted.

    Raises:
        ValueError: the bytes are no message.
    """
    position = 0
    while position < len(content):
        start = position
        key, position = varint(content, position)
        index, wire = key >> 3, key & 7
        allow(index, wire)
        value: int | memoryview
        if wire == VARINT:
            value, position = varint(content, position)
        elif wire == BYTES or wire in _SIZES:
            length = _SIZES.get(wire)
            if length is None:
                length, position = varint(content, position)
            if length > len(content) - position:
                raise ValueError(f"field {index} ends beyond the file")
            value = content[position : position + length]
            position += length
        else:
            raise ValueError(f"field {index} is malformed")
        yield Field(index, value, content[start:position])


def varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the number at `position` and the position after it; at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << 64:
                break
            return value, position
    raise ValueError("a number in the graph is malformed")


def message(index: int, content: bytes) -> bytes:
    """Return a field that holds bytes: a string or another message."""
    return _varint(index << 3 | BYTES) + _varint(len(content)) + content


def number(index: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return _varint(index << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
