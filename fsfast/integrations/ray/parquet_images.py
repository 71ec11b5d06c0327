"""Images in a column of Parquet files: files of images as bytes, or structs with "bytes", as data sets have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fsfast.errors import FsfastError, ImageError, brief
from fsfast.integrations.packages import host_package

fsspec = host_package("fsspec", "ray")


def count_rows(path: str, column: str) -> int | None:
    """Return the rows of a Parquet file, None where it cannot be read.

    Raises:
        FsfastError: it has no such column.
    """
    try:
        with _parquet(path) as file:
            known = file.schema_arrow.names
            rows = int(file.metadata.num_rows)
    except (OSError, ValueError):
        return None
    if column not in known:
        raise FsfastError(f"wanted the column {column!r} with images in {path}, which has {', '.join(known)}")
    return rows


def rows_of(path: str, first: int, count: int, column: str) -> Iterator[tuple[str, bytes | FsfastError]]:
    """Yield rows of a Parquet file; a group of rows that is damaged fails alone."""
    with _parquet(path) as file:
        start = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(first, start), min(first + count, start + rows)
            if low < high:
                names = [f"{path}#{row}" for row in range(low, high)]
                try:
                    values = file.read_row_group(group, [column])[column].slice(low - start, high - low)
                except (OSError, ValueError) as error:
                    yield from (
                        (name, ImageError(f"{name} cannot be read: {brief(error)}")) for name in names
                    )
                else:
                    for name, value in zip(names, values, strict=True):
                        yield name, _content(value.as_py(), name)
            start += rows


def _parquet(path: str) -> Any:
    """Return an open Parquet file; raises OSError or ValueError."""
    return host_package("pyarrow.parquet", "ray").ParquetFile(fsspec.open(path, "rb").open())


def _content(value: Any, name: str) -> bytes | FsfastError:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    return ImageError(f"{name} is no image: wanted the bytes of a file, got {type(content).__name__}")
