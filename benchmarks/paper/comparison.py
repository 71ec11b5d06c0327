"""The paper's numbers beside the measured ones, computed from the files of the results' folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring.files import write_table
from benchmarks.measuring.tables import read
from benchmarks.paper import quoted
from benchmarks.paper.quoted import Quoted
from fsfast.bounds.cosine import cosine_lower_bound, radius


@dataclass(frozen=True)
class Compared:
    """One number of a table of the paper, and what was measured in its place.

    Attributes:
        table, networks, sigma, quantity, at: the cell, as Quoted.
        paper: its value; None of networks, or of a σ, that the paper's table does not have.
        measured: the same quantity here (of "fcsb" and "radius" the plug-in number), None where it is not measured.
        difference: measured − paper.
        certified: of "fcsb" and "radius" what the certificates say, the mean over images; an image for which nothing
            is certified counts as 0.
        share: of the images for which something is certified.
        images: how many were measured.
    """

    table: str
    networks: str
    sigma: float
    quantity: str
    at: float | None
    paper: float | None
    measured: float | None = None
    difference: float | None = None
    certified: float | None = None
    share: float | None = None
    images: int = 0


def compare(folder: Path) -> list[Compared]:
    """Return all cells, and write them to comparison.csv.

    Args:
        folder: of the results; a file that is not there yet has no rows.
    """
    latency, similarity, images = (
        _rows(folder / f"{name}.csv") for name in ("latency", "similarity", "images")
    )
    cells = [
        *(_encoded(cell, latency, similarity) for cell in quoted.table_s8()),
        *(_bounded(cell, images) for cell in [*quoted.bounds("2"), *_beyond(images), *quoted.bounds("5")]),
    ]
    write_table(folder / "comparison.csv", [asdict(cell) for cell in cells])
    return cells


def slope(cells: Iterable[Compared], networks: str) -> tuple[float, float] | None:
    """Return the seconds that one more sample takes, the paper's and the measured, by least squares.

    Over the n0 that were measured; None where there are fewer than two.
    """
    points = [
        (cell.at, cell.paper, cell.measured)
        for cell in cells
        if (cell.quantity, cell.networks) == ("seconds", networks) and cell.measured is not None
    ]
    if len(points) < 2:
        return None
    n0, paper, measured = np.array(points, dtype=float).T
    return float(np.polyfit(n0, paper, 1)[0]), float(np.polyfit(n0, measured, 1)[0])


def _beyond(images: list[dict[str, str]]) -> Iterator[Quoted]:
    """Yield the cells that Table 2 would have of what else was measured."""
    there = {(cell.sigma, cell.networks) for cell in quoted.bounds("2")}
    for sigma, networks in dict.fromkeys((float(row["sigma"]), row["networks"]) for row in images):
        if (sigma, networks) not in there:
            for radius in quoted.radii():
                yield Quoted("2", networks, sigma, "fcsb", radius, None)
            yield Quoted("2", networks, sigma, "radius", None, None)


def _rows(path: Path) -> list[dict[str, str]]:
    return read(path) if path.exists() else []


def _encoded(cell: Quoted, latency: list[dict[str, str]], similarity: list[dict[str, str]]) -> Compared:
    rows = latency if cell.quantity == "seconds" else similarity
    found = [row for row in rows if row["purifier"] == cell.networks and float(row["n0"]) == cell.at]
    if not found:
        return Compared(**_known(cell))
    if cell.quantity == "seconds":
        return _measured(cell, float(found[0]["p50_ms"]) / 1e3, images=1)
    return _measured(cell, float(np.mean([float(row["fcs"]) for row in found])), images=len(found))


def _bounded(cell: Quoted, images: list[dict[str, str]]) -> Compared:
    found = [row for row in images if row["networks"] == cell.networks and float(row["sigma"]) == cell.sigma]
    if not found:
        return Compared(**_known(cell))
    score = float(np.mean([float(row["mean_score"]) for row in found]))
    if cell.at is None:
        plug_in = radius(quoted.COSINE, sigma=cell.sigma, mean=score, method="paper")
        column = "radius"
    else:
        plug_in = cosine_lower_bound(cell.at / cell.sigma, mean=score, method="paper") or 0.0
        column = f"cosine_{cell.at:g}"
    bounds = [float(row[column] or 0.0) for row in found]
    return _measured(
        cell,
        plug_in,
        certified=float(np.mean(bounds)),
        share=float(np.mean([bound > 0 for bound in bounds])),
        images=len(found),
    )


def _measured(cell: Quoted, value: float, **more: Any) -> Compared:
    difference = None if cell.value is None else value - cell.value
    return Compared(**_known(cell), measured=value, difference=difference, **more)


def _known(cell: Quoted) -> dict[str, Any]:
    return {("paper" if name == "value" else name): value for name, value in vars(cell).items()}
