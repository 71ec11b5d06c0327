"""What the paper states, arXiv 2601.16200v1, as this folder's CSV files quote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.tables import read

FOLDER = Path(__file__).parent
ADDRESS = "https://arxiv.org/abs/2601.16200v1"
HARDWARE = "RTX 4090"
# Of the quantity "radius": the cosine that is asked for.
COSINE = 0.5


@dataclass(frozen=True)
class Quoted:
    """One cell of a table.

    Attributes:
        table: "S.8", "2" or "5".
        networks: stages joined by "+", the purifier by its preset in Table S.8.
        sigma: noise level.
        quantity: "seconds" and "fcs" at a number of samples, "fcsb" at an ℓ2 radius, or "radius".
        at: the number of samples or the radius; None of a "radius".
        value: as printed, or None where the paper has no such cell.
    """

    table: str
    networks: str
    sigma: float
    quantity: str
    at: float | None
    value: float | None


def table_s8() -> list[Quoted]:
    """Return seconds per sample, the language model's answer among them, and FCS under the attack FOA."""
    cells = []
    for row in read(FOLDER / "table_s8.csv"):
        for quantity, column in (("seconds", "seconds_per_sample"), ("fcs", "fcs")):
            at, value = float(row["n0"]), float(row[column])
            cells.append(Quoted("S.8", row["purifier"], 0.25, quantity, at, value))
    return cells


def bounds(table: str) -> list[Quoted]:
    """Return the FCSB and the radii of Table 2 or Table 5, which are plug-in numbers; empty cells are left out."""
    cells = []
    for row in read(FOLDER / f"table_{table}.csv"):
        for column, text in row.items():
            quantity, _, at = column.partition("_")
            if quantity in ("fcsb", "radius") and text:
                where = float(at) if at else None
                cells.append(
                    Quoted(table, row["networks"], float(row["sigma"]), quantity, where, float(text))
                )
    return cells


def radii() -> list[float]:
    """Return the ℓ2 radii of Tables 2 and 5."""
    return sorted({cell.at for table in ("2", "5") for cell in bounds(table) if cell.at is not None})
