"""Results files: rows to CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
