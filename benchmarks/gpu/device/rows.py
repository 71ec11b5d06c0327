"""Rows of the GPU study, one JSON object per line: whatever ends a process, what stands in the file is whole."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsfast.errors import brief
from fsfast.files import append

NAME = "rows.jsonl"


@dataclass(frozen=True)
class ErrorRow:
    """What could not be measured, and why."""

    case: str
    error: str


@dataclass(frozen=True)
class Table:
    """Rows of one kind that become a CSV file of their own."""

    name: str
    rows: list[Any]


def guarded(case: str, measure: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yield what `measure` gives; an error becomes a row, and whatever comes next goes on."""
    try:
        yield from measure()
    # Whatever a baseline, a kernel or the device raises.
    except Exception as error:
        traceback.print_exc()
        yield ErrorRow(case, f"{type(error).__name__}: {brief(error)}")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line; infinities and NaNs, which JSON lacks, as text."""
    odd = {k: str(v) for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, (json.dumps({**row, **odd}, ensure_ascii=False) + "\n").encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
