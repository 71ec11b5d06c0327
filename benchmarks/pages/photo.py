"""The tables about photographs: what the pictures are, and what the engines for them do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, read
from benchmarks.photo.summary import SURE
from fsfast.certificates.wording import round_down
from train.evaluate import RADII

Row = dict[str, str]
_NETWORKS = {
    "encoder": "encoder alone",
    "purifier+encoder": "+ purifier",
    "purifier+encoder+mapper": "+ purifier + mapper",
}


def updated(text: str) -> str:
    """Return a document with the tables that it names made anew; those of missing results files stay empty."""
    folder = RESULTS / "photo"
    for name, (table, render) in _RENDERED.items():
        place = re.compile(rf"(<!-- photo {name} -->\n).*?(<!-- end of photo {name} -->)", re.DOTALL)
        shown = render(folder) if (folder / f"{table}.csv").exists() else ""
        text = place.sub(lambda m, shown=shown: m[1] + shown + m[2], text)
    return text


def render_data(folder: Path) -> str:
    """Return what the pictures of packages are."""
    columns = ("kind", "package", "version", "pictures", "held_out", "crops", "licences")
    rows = read(folder / "data.csv")
    counted = ("pictures", "held_out", "crops")
    total = ["all", "", "", *(str(sum(int(r[name]) for r in rows)) for name in counted), ""]
    return markdown(
        [name.replace("_", " ") for name in columns], [*([r[name] for name in columns] for r in rows), total]
    )


def render_accuracy(folder: Path) -> str:
    """Return how many of the labelled photographs are classified rightly, and their licences."""
    pictures, rows = read(folder / "labelled.csv"), read(folder / "accuracy.csv")
    cells = [
        [
            r["preprocessing"],
            r["head"],
            f"{r['right']} of {r['pictures']} ({int(r['right']) / int(r['pictures']):.0%})",
            r["as_with_biases"],
        ]
        for r in rows
    ]
    licences = Counter(r["licence"] for r in pictures)
    said = "; ".join(f"{licence} ({count})" for licence, count in sorted(licences.items()))
    table = markdown(("preprocessing", "classifier", "right (top-1)", "same answer as with biases"), cells)
    return f"{table}\nLicences of the photographs: {said}.\n"


def render_study(folder: Path) -> str:
    """Return the plug-in numbers of every choice of networks."""
    rows = read(folder / "summary.csv")
    header = (
        *(
            "σ",
            "networks",
            "photographs",
            "S",
            "S, centred",
            "S, served anchor",
            "cosine, served to clean",
            "R",
        ),
        *(f"FCSB ε = {epsilon:g}" for epsilon in RADII),
        *("same class", f"same class, where p ≥ {SURE:g}", "in the top five", "PSNR (dB)"),
    )
    numbers = ("score", "score_centred", "score_served", "served_to_clean", "radius")
    cells = [
        [
            row["sigma"],
            _NETWORKS[row["networks"]],
            row["images"],
            *(_digits(row[name]) for name in numbers),
            *(_digits(row[f"fcsb_{epsilon:g}"]) for epsilon in RADII),
            _percent(row["agreement"]),
            f"{_percent(row['agreement_where_sure'])} of {row['sure']}",
            _percent(row["in_top_five"]),
            f"{float(row['psnr']):.1f}",
        ]
        for row in rows
    ]
    first = read(folder / "plug-in.csv")[0]
    return (
        f"{markdown(header, cells)}\n{first['samples']} samples of each photograph, in {first['precision']}. Classes: "
        "of the direction of 4 samples against the encoder's own answer without noise; p is its probability there. "
        f"{_devices(folder, 'plug-in')}\n"
    )


def render_mapper(folder: Path) -> str:
    """Return what low-rank mappers did on training photographs that they were not fitted to."""
    rows = read(folder / "mapper.csv")
    header = (
        *("σ", "features", "mapper", "rank", "ridge", "strength"),
        *("S", "S, centred", "cosine, served to clean", "same class"),
    )
    numbers = ("score", "score_centred", "served_to_clean")
    cells = [
        [
            *(row[name] for name in ("sigma", "output", "mapper", "rank", "ridge", "strength")),
            *(f"{float(row[name]):.4f}" for name in numbers),
            f"{float(row['agreement']):.1%}",
        ]
        for row in rows
    ]
    return (
        f"{markdown(header, cells)}\n{rows[0]['crops']} crops of training photographs that no mapper of the table was "
        f"fitted to, {rows[0]['noises']} noises each. Classes: of single samples against the crop without noise.\n"
    )


def render_certificates(folder: Path) -> str:
    """Return what the engines' own certificates say, with both anchors."""
    rows = read(folder / "certificates.csv")
    header = (
        *("σ", "anchor", "photographs", "mean score", "S ≥", "cosine ≥ .5 certified", "radius"),
        *(f"cosine ≥ at ε = {epsilon:g}" for epsilon in RADII),
        *("class certified", "its radius", "certified and as without noise"),
    )
    cells = [
        [
            row["sigma"],
            row["anchor"],
            row["images"],
            _digits(row["score"]),
            _down(row["score_lower_bound"]),
            _percent(row["certified"]),
            _down(row["radius"]),
            *(_down(row[f"cosine_{epsilon:g}"]) for epsilon in RADII),
            _percent(row["class_certified"]),
            _down(row["class_radius"]),
            _percent(row["class_as_clean"]),
        ]
        for row in rows
    ]
    return (
        f"{markdown(header, cells)}\nn = {rows[0]['n']}, α = 0.001 for each photograph; means, where nothing is "
        f"certified counted as 0. Rounded down. {_devices(folder, 'certified')}\n"
    )


def render_attacks(folder: Path) -> str:
    """Return what became of attacked photographs."""
    header = (
        *("attack", "answered by", "σ", "photographs", "target's class", "class as without attack"),
        *("cosine to clean", "cosine to target"),
    )
    cells = [
        [
            row["attack"],
            "encoder alone, without noise" if row["sigma"] == "0" else _NETWORKS[row["networks"]],
            "—" if row["sigma"] == "0" else row["sigma"],
            row["images"],
            *(_percent(row[name]) for name in ("target", "clean")),
            *(_digits(row[name]) for name in ("cosine_to_clean", "cosine_to_target")),
        ]
        for row in read(folder / "attacked.csv")
    ]
    return f"{markdown(header, cells)}\n{_devices(folder, 'plain', 'adaptive')}\n"


def _devices(folder: Path, *tables: str) -> str:
    """On which machines the rows of tables were made."""
    paths = (folder / f"{table}.csv" for table in tables)
    counts = Counter(row["device"] for path in paths if path.exists() for row in read(path))
    return f"Rows by machine: {', '.join(f'{device} ({count})' for device, count in sorted(counts.items()))}."


def _digits(text: str) -> str:
    return f"{float(text):.3f}"


def _down(text: str) -> str:
    return round_down(Decimal(text), 3)


def _percent(text: str) -> str:
    return f"{float(text):.0%}"


# Name in documents → results file and what shows it.
_RENDERED: dict[str, tuple[str, Callable[[Path], str]]] = {
    "data": ("data", render_data),
    "accuracy": ("accuracy", render_accuracy),
    "study": ("summary", render_study),
    "mapper": ("mapper", render_mapper),
    "certificates": ("certificates", render_certificates),
    "attacks": ("attacked", render_attacks),
}
