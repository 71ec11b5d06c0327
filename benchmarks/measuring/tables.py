"""Results files as Markdown tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a results file."""
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def measured_on(rows: Sequence[dict[str, str]]) -> str:
    """Return devices and versions of rows about engines, in words."""
    where = sorted({(row["device"], row["onnxruntime"], row["torch"]) for row in rows})
    return "; ".join(f"{device}, ONNX Runtime {ort}, torch {torch}" for device, ort, torch in where)


def number(text: str) -> str:
    """Return a number with three digits."""
    value = float(text)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def share(row: dict[str, str]) -> str:
    """Return a row's share in words, or nothing."""
    if not row["share"]:
        return ""
    value = float(row["share"])
    return f"{value:.1f} × {row['of']}" if row["of"] == "torch" else f"{value:.0%} of {row['of']}"
