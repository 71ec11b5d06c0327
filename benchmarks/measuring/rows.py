"""A table that grows on the disk: a finished row is a line, and what an interruption cut off is dropped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fsfast.errors import FsfastError
from fsfast.files import append


class Rows:
    """A CSV file of rows that are known by some of their columns.

    Args:
        path: the file, which need not exist; a last line without an end is cut off.
        columns: of the file, in their order.
        key: the columns that a row is found by.

    Raises:
        FsfastError: the file has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self._columns, self._key = path, list(columns), list(key)
        self._rows: dict[tuple[str, ...], dict[str, str]] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        reader = csv.DictReader(io.StringIO(whole.decode("utf-8")))
        if whole and reader.fieldnames != self._columns:
            raise FsfastError(
                f"{path} has other columns ({', '.join(reader.fieldnames or ())}); choose another --out"
            )
        for row in reader:
            self._rows[self._found_by(row)] = row
        if not whole:
            append(path, self._line(dict(zip(self._columns, self._columns, strict=True))))

    def __contains__(self, key: tuple[object, ...]) -> bool:
        return tuple(map(_text, key)) in self._rows

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: Mapping[str, object]) -> None:
        """Write a row, which is on the disk afterwards."""
        texts = {column: _text(row[column]) for column in self._columns}
        append(self.path, self._line(texts))
        self._rows[self._found_by(texts)] = texts

    def _found_by(self, row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[column] for column in self._key)

    def _line(self, row: Mapping[str, str]) -> bytes:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self._columns, lineterminator="\n").writerow(row)
        return buffer.getvalue().encode()


def _text(value: object) -> str:
    """Return a cell: floats with all their digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
