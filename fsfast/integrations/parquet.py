"""Smoothed features as a file of Parquet that is written while they come; `pyarrow.parquet` reads it.

`fsfast.integrations.arrow.from_table` turns what it reads into SmoothedFeatures again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsfast.errors import FsfastError
from fsfast.files import replacing
from fsfast.integrations.arrow import Precision, to_table
from fsfast.integrations.packages import host_package
from fsfast.runtime.features import SmoothedFeatures

host_package("pyarrow", "arrow")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

# Rows of a row group.
_GROUP = 256


def encoding_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the arguments of pyarrow's writers for tables of vectors, whose numbers hardly ever come twice.

    Dictionaries of them are larger than they are (half as much again); their exponents side by side are packed well.
    """
    vectors = (field.name for field in schema if pa.types.is_fixed_size_list(field.type))
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in vectors}
    return {"use_dictionary": False, "compression": "zstd", "column_encoding": split or None}


class ParquetRows:
    """Takes features for a Parquet file, in groups of rows; `parquet_rows` makes one.

    Attributes:
        written: rows so far.
    """

    def __init__(self, file: Path, precision: Precision) -> None:
        self.written = 0
        self._file, self._precision = file, precision
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, out: SmoothedFeatures) -> None:
        """Append features; raises FsfastError where they are not of the function, shape and kind of those before."""
        table = to_table(out, self._precision)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema, **encoding_of(table.schema))
        elif not table.schema.equals(self._writer.schema, check_metadata=True):
            raise FsfastError(
                f"wanted features of the same function and shape as those before, got others: {out!r} of "
                f"{out.engine_digest[:16]}…, function {out.function_id}; write them to a file of their own"
            )
        self._waiting.append(table)
        self.written += len(table)
        if sum(map(len, self._waiting)) >= _GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a group of rows."""
        if self._writer is not None and self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def parquet_rows(path: str | os.PathLike[str], precision: Precision = "float32") -> Iterator[ParquetRows]:
    """Write features to a Parquet file as they come, in constant memory: whole, or not at all where an error ends it.

    Args:
        path: of the file; one that stands there is replaced.
        precision: as in `to_table`.

    Raises:
        FsfastError: in the end, where no features came: nobody could say what the file is about.
        OSError: the folder is missing or cannot be written.
    """
    with replacing(path) as file:
        rows = ParquetRows(file, precision)
        try:
            yield rows
            rows.flush()
        finally:
            rows.close()
        if not rows.written:
            raise FsfastError(f"wanted features to write to {os.fspath(path)}, none came")
