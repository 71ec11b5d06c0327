"""The study's rows as the tables that docs show: a line for each σ and choice of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean

from benchmarks.measuring.files import write_table
from benchmarks.measuring.tables import read
from train.evaluate import RADII, plug_in_fcsb

Row = dict[str, str]
# Of the encoder's answer without noise: from here on it counts as sure.
SURE = 0.5


def write(folder: Path) -> None:
    """Write summary.csv, certificates.csv and attacked.csv of the tables that are there."""
    # The encoder's own answers without noise; certificates do not have them.
    clean = {row["image"]: row["clean_class"] for row in _rows(folder, "plug-in")}
    for name, source, make in (
        ("summary", ("plug-in",), _plug_in),
        ("certificates", ("certified",), partial(_certified, clean)),
        ("attacked", ("plain", "adaptive"), _attacked),
    ):
        if rows := _rows(folder, *source):
            write_table(folder / f"{name}.csv", list(make(rows)), 4)


def _rows(folder: Path, *parts: str) -> list[Row]:
    paths = (folder / f"{part}.csv" for part in parts)
    return [row for path in paths if path.exists() for row in read(path)]


def _plug_in(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    for (sigma, networks), group in _groups(rows, "sigma", "networks"):
        agree = _share(lambda row: row["smoothed_class"] == row["clean_class"])
        sure = [row for row in group if float(row["clean_probability"]) >= SURE]
        bounds = {
            f"fcsb_{epsilon:g}": fmean(
                plug_in_fcsb(float(row["score"]), float(sigma), epsilon) or 0.0 for row in group
            )
            for epsilon in RADII
        }
        yield {
            "sigma": sigma,
            "networks": networks,
            "images": len(group),
            "score": _mean(group, "score"),
            "score_centred": _mean(group, "score_centred"),
            "score_served": _mean(group, "score_served"),
            "served_to_clean": _mean(group, "served_to_clean"),
            "radius": _mean(group, "radius"),
            **bounds,
            "agreement": agree(group),
            "sure": len(sure),
            "agreement_where_sure": agree(sure),
            "psnr": _mean(group, "psnr"),
            "in_top_five": _share(lambda row: row["in_top_five"] == "True")(group),
        }


def _certified(clean: Mapping[str, str], rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    def as_clean(row: Row) -> bool:
        return float(row["class_radius"]) > 0 and row["class"] == clean.get(row["image"])

    for (sigma, anchor), group in _groups(rows, "sigma", "anchor"):
        yield {
            "sigma": sigma,
            "anchor": anchor,
            "images": len(group),
            "n": group[0]["n"],
            "score": _mean(group, "mean_score"),
            "score_lower_bound": _mean(group, "score_lower_bound"),
            "certified": _share(lambda row: float(row["radius"]) > 0)(group),
            "radius": _mean(group, "radius"),
            **{f"cosine_{epsilon:g}": _mean(group, f"cosine_{epsilon:g}") for epsilon in RADII},
            "class_certified": _share(lambda row: float(row["class_radius"]) > 0)(group),
            "class_radius": _mean(group, "class_radius"),
            "class_as_clean": _share(as_clean)(group),
        }


def _attacked(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    for (attack, sigma, networks), group in _groups(rows, "attack", "sigma", "networks"):
        yield {
            "attack": attack,
            "sigma": sigma,
            "networks": networks,
            "images": len(group),
            "target": _share(lambda row: row["class"] == row["target_class"])(group),
            "clean": _share(lambda row: row["class"] == row["clean_class"])(group),
            "cosine_to_clean": _mean(group, "cosine_to_clean"),
            "cosine_to_target": _mean(group, "cosine_to_target"),
        }


def _groups(rows: Sequence[Row], *names: str) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Rows that are equal in some columns, in the order in which these values first come."""
    keys = [tuple(row[name] for name in names) for row in rows]
    order = {key: place for place, key in reversed(list(enumerate(keys)))}
    paired = sorted(zip(keys, rows, strict=True), key=lambda pair: order[pair[0]])
    for key, group in groupby(paired, key=lambda pair: pair[0]):
        yield key, [row for _, row in group]


def _mean(rows: Sequence[Row], column: str) -> float:
    """The mean of a column; where there is no bound, 0."""
    return fmean(float(row[column] or 0.0) for row in rows)


def _share(holds: Callable[[Row], bool]) -> Callable[[Sequence[Row]], float]:
    return lambda rows: fmean(map(holds, rows)) if rows else 0.0
