"""The rows of images as the tables that docs show: means with intervals, for each attack, radius and defence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring.files import write_table
from benchmarks.measuring.tables import read
from study.columns import SHORT
from study.interval import bootstrap
from study.plan import PARTS

Row = dict[str, str]


def write(folder: Path) -> None:
    """Write summary.csv of the parts that are there."""
    rows = [
        row
        for part in PARTS
        if (path := folder / f"{part}.csv").exists()
        for row in _summaries(part, read(path))
    ]
    if rows:
        write_table(folder / "summary.csv", rows, 4)


def _summaries(part: str, rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["engine"], row["attack"], row["eps"]), []).append(row)
    for (engine, attack, eps), group in groups.items():
        for defence, short in SHORT.items():
            hit = bootstrap(_by_image(group, [float(r[f"{short}_class"] == r["target"]) for r in group]))
            right = bootstrap(_by_image(group, [float(r[f"{short}_class"] == r["label"]) for r in group]))
            cosine = bootstrap(_by_image(group, [float(r[f"{short}_cosine"]) for r in group]))
            yield {
                **{"part": part, "engine": engine, "attack": attack, "eps": eps, "defence": defence},
                **{"images": len({r["image"] for r in group}), "seeds": len({r["seed"] for r in group})},
                **dict(zip(("hit", "hit_low", "hit_high"), hit, strict=True)),
                **dict(zip(("right", "right_low", "right_high"), right, strict=True)),
                "cosine": cosine[0],
            }


def _by_image(rows: Sequence[Row], values: Sequence[float]) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        found.setdefault(row["image"], []).append(value)
    return list(found.values())
