"""The README's two plots, from the results files that it names: `python -m benchmarks.pages.plots`.

One file for light pages and one for dark ones: an image cannot know the colours around it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.certified import figures
from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import read
from fsfast.files import write_whole
from fsfast.report.curves import METHOD_LINES
from fsfast.report.svg import COOL, INK, MUTED, WARM, new_figure, style, to_svg

README = Path(__file__).parents[2] / "README.md"
FOLDER = README.parent / "docs" / "plots"
# What the variables of `fsfast.report.svg` are on a dark page.
DARK = {
    "currentColor": "#e6eaee",
    "muted": "#9ba6b2",
    "line": "#323b45",
    "paper": "#14181d",
    "cool": "#62b0f5",
    "warm": "#f5935a",
    "green": "#45c7a0",
}
_SIZE = (368, 268)
# Where there is room; a telephone shows them smaller.
_SCALE = 1.25


def certified(rows: Sequence[dict[str, str]]) -> Figure:
    """Draw the certified cosine against ε, the paper's plug-in beside it: curves.csv at its largest n."""
    n = max(int(row["n"]) for row in rows)
    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    for method, key in (("joint", "joint"), ("paper (plug-in, not a certificate)", "paper")):
        line = METHOD_LINES[key][1]  # type: ignore[index]
        label = f"certified by fsfast, n = {n:,}" if key == "joint" else "the paper's plug-in: no certificate"
        axes.plot(*figures.certified(rows, method, n), label=label, **line)
    axes.set(
        title="What no attack can undercut",
        xlabel="ℓ₂ size of the attack, ε / σ",
        ylabel="cosine to the feature handed out ≥",
        ylim=(0, 1.02),
        xlim=(0, None),
    )
    axes.legend(loc="lower left")
    return figure


def best(rows: Sequence[dict[str, str]], prefix: str) -> str:
    """Return the fastest variant at the largest n0 among those that begin so."""
    most = max(_samples(row) for row in rows)
    mine = [row for row in rows if re.match(prefix, row["variant"]) and _samples(row) == most]
    return min(mine, key=lambda row: float(row["p50_ms"]))["variant"]


def latency(rows: Sequence[dict[str, str]]) -> Figure:
    """Draw seconds per image against n0: purified.csv."""
    rows = [row for row in rows if ", n0=" in row["case"] and row["cosine"]]
    hand, ours = best(rows, r"(?!torch|fsfast)"), best(rows, "fsfast")
    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    for variant, label, line in (
        ("torch: loop, medium", "the researcher's loop: torch", {"color": MUTED, "dashes": (5, 2)}),
        (hand, hand, {"color": WARM}),
        (ours, ours, {"color": COOL, "linewidth": 2.2}),
    ):
        found = sorted((_samples(r), float(r["p50_ms"]) / 1e3) for r in rows if r["variant"] == variant)
        n0, seconds = np.array(found).T
        axes.plot(n0, seconds, marker="o", markersize=4, label=label, **line)
    case = rows[0]["case"].partition(", n0=")[0]
    axes.set(
        title=f"{case}, two CPU cores",
        xlabel="samples per image, n0",
        ylabel="seconds per image",
        ylim=(0, None),
    )
    axes.set_xticks(sorted({_samples(row) for row in rows}))
    axes.legend(loc="upper left")
    return figure


def _samples(row: dict[str, str]) -> int:
    return int(row["case"].partition(", n0=")[2])


def write(name: str, figure: Figure, label: str) -> None:
    """Write NAME-light.svg and NAME-dark.svg."""
    width, height = (f"{_SCALE * length:g}" for length in _SIZE)
    svg = to_svg(figure, name, label).replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    light = re.sub(r"var\(--\w+, (#\w+)\)", r"\1", svg).replace("currentColor", INK)
    dark = re.sub(r"var\(--(\w+), #\w+\)", lambda m: DARK[m[1]], svg).replace(
        "currentColor", DARK["currentColor"]
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    for mode, content in (("light", light), ("dark", dark)):
        write_whole(FOLDER / f"{name}-{mode}.svg", content.encode())


def main() -> int:
    """Draw both plots from the folders that the README names."""
    folder = re.search(r"<!-- plots: (\S+) -->", README.read_text(encoding="utf-8"))
    assert folder, "README.md names no folder: <!-- plots: FOLDER -->"
    with style():
        write(
            "certified",
            certified(read(RESULTS / "certificates" / "curves.csv")),
            "Curve of the certified cosine against the size of the attack, and the paper's plug-in number",
        )
        write(
            "latency",
            latency(read(RESULTS / folder[1] / "purified.csv")),
            "Seconds per image against the number of samples: a loop in torch, the best runtime by hand, fsfast",
        )
    print(f"→ {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
