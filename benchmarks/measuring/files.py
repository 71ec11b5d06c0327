"""Results files: rows to CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.measuring.tables import read
from fsfast.files import write_whole


def write_table(path: Path, rows: Sequence[Any], digits: int = 6) -> None:
    """Write rows of one kind, dictionaries or dataclasses, floats with so many significant digits."""
    records: list[Mapping[str, Any]] = [row if isinstance(row, Mapping) else asdict(row) for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in record.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue().encode())


def update_table(
    path: Path, rows: Sequence[Any], key: Sequence[str], where: Mapping[str, str], digits: int = 6
) -> None:
    """Write rows, dataclasses of one kind, to a results file; those of other keys that stand there stay.

    Args:
        path: of the file; it need not be there.
        rows: at least one.
        key: the fields that tell rows apart, by which they are sorted.
        where: what else stands in each line; older lines may lack some of it.
        digits: significant ones of floats.
    """
    records = [*(read(path) if path.exists() else ()), *({**asdict(row), **where} for row in rows)]
    merged = {tuple(record[name] for name in key): record for record in records}
    columns = [*(field.name for field in fields(rows[0])), *where]
    write_table(path, [{name: merged[k].get(name, "") for name in columns} for k in sorted(merged)], digits)
