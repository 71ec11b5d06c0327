"""The page's charts: the paper's points, and the lines that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fsfast.report.svg import COOL, MUTED, PAPER, WARM, WIDTH, new_figure, style, to_svg

# What is drawn, in this order: colour and style of the line, or of the points.
_LOOK: dict[str, dict[str, Any]] = {
    "paper": {"color": MUTED, "linestyle": "", "marker": "D", "markersize": 6, "markerfacecolor": "none"},
    "measured": {"color": COOL, "marker": "o", "markersize": 4.5, "markeredgecolor": PAPER},
    "plug-in": {"color": WARM, "marker": "o", "markersize": 4.5, "markeredgecolor": PAPER, "dashes": (5, 2)},
    "certified": {"color": COOL, "marker": "o", "markersize": 4.5, "markeredgecolor": PAPER},
}


def lines(
    series: dict[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    axes: tuple[str, str],
    name: str,
    spoken: str,
    top: float | None = None,
) -> str:
    """Draw what the paper says and what was measured against one quantity.

    Args:
        series: "paper", "measured", "plug-in" or "certified" → points; without points nothing is drawn.
        title: of the chart.
        axes: names of both.
        name: unique in the page.
        spoken: what the chart shows, for those who do not see it.
        top: end of the second axis; None: as the points want it.
    """
    with style():
        figure = new_figure(WIDTH, 255 + 18 * len(series))
        plot = figure.add_subplot()
        for label, points in series.items():
            if points:
                plot.plot(*zip(*points, strict=True), label=label, **_LOOK[label])
        plot.set(title=title, xlabel=axes[0], ylabel=axes[1])
        plot.set_xticks(sorted({x for points in series.values() for x, _ in points}))
        lowest = min(y for points in series.values() for _, y in points)
        plot.set_ylim(1.15 * min(0.0, lowest), top)
        figure.legend(loc="outside lower left", ncols=2)
        return to_svg(figure, name, spoken)
