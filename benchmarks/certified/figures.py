"""The picture of docs/certificates.md, drawn from the results files: `python -m benchmarks.certified.figures`.

Above: what the same samples certify by every method. Below: how often the confidence bounds fail.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.certified.coverage import RESULTS
from benchmarks.measuring.tables import read
from fsfast.files import write_whole
from fsfast.report.curves import METHOD_LINES
from fsfast.report.svg import COOL, GREEN, INK, MUTED, WARM, new_figure, style

FIGURE = Path(__file__).parents[2] / "docs" / "certificates.png"

# How a method is drawn, by its name in curves.csv; one that is not here stays out.
_LINES = {
    "joint": "joint",
    "cap": "cap",
    "sharp": "sharp",
    "fcsb + mixture": "fcsb",
    "paper (plug-in, not a certificate)": "paper",
}
_BOUNDS = {
    "mean, mixture": (COOL, "o"),
    "mean, product": (WARM, "s"),
    "mean, hoeffding": (MUTED, "D"),
    "proportion, Clopper–Pearson": (GREEN, "^"),
    "proportion, mixture": (INK, "v"),
    "perpendicular": (COOL, "x"),
}


def draw(folder: Path, target: Path) -> None:
    """Draw curves.csv and coverage.csv of a folder into a PNG file, whole or not at all."""
    with style():
        figure = new_figure(440, 840)
        above, below = figure.subplots(2, 1)
        curves(above, read(folder / "curves.csv"))
        coverage(below, read(folder / "coverage.csv"))
        for axes in (above, below):
            axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.16))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, buffer.getvalue())


def certified(rows: Sequence[dict[str, str]], method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ε/σ and the bounds of a method of curves.csv at n samples, as far as they are positive."""
    found = [(float(r["d"]), float(r["bound"])) for r in rows if r["method"] == method and int(r["n"]) == n]
    d, bound = np.array(found).T
    return d[bound > 0], bound[bound > 0]


def curves(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draw the mean bounds at the smallest n against the radius."""
    n = min(int(row["n"]) for row in rows)
    for name, key in _LINES.items():
        label, line = METHOD_LINES[key]  # type: ignore[index]
        axes.plot(*certified(rows, name, n), label=label, **line)
    axes.set(
        title=f"Certified on the built-in engine, n = {n}",
        xlabel="ε / σ",
        ylabel="cosine ≥, mean over test images",
        ylim=(0, 1.02),
        xlim=(0, None),
    )


def coverage(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draw the largest share of failures of every bound against α."""
    alphas = sorted({float(row["alpha"]) for row in rows})
    runs = max(int(row["runs"]) for row in rows)
    axes.plot(alphas, alphas, color=MUTED, linewidth=0.9, dashes=(4, 3), label="allowed: α")
    for i, (name, (colour, marker)) in enumerate(_BOUNDS.items()):
        shares = [(float(r["alpha"]), float(r["share"])) for r in rows if r["bound"] == name]
        worst = [max(share for at, share in shares if at == alpha) for alpha in alphas]
        # Side by side; and a logarithm shows no 0: half a failure stands for none.
        at = np.array(alphas) * 1.05 ** (i - 0.5 * (len(_BOUNDS) - 1))
        line = {"color": colour, "fillstyle": "none", "markersize": 6, "linestyle": "none"}
        axes.plot(at, np.maximum(worst, 0.5 / runs), marker=marker, label=name, **line)
    axes.set(
        title=f"The worst of many cases, {runs:,} runs each",
        xlabel="α, promised",
        ylabel="share of wrong bounds",
        xscale="log",
        yscale="log",
    )
    axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def main() -> int:
    """Draw the committed results."""
    draw(RESULTS, FIGURE)
    print(f"→ {FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
