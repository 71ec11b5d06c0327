"""The charts: each function draws one from plain data or certificates, and returns it as an SVG element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.markers import CARETLEFT
from matplotlib.ticker import MaxNLocator, MultipleLocator

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import round_down
from fsfast.errors import printable
from fsfast.report.svg import (
    COOL,
    GREEN,
    INK,
    MUTED,
    PAPER,
    WARM,
    WIDTH,
    new_figure,
    quiet_axis,
    style,
    to_svg,
)

# More classes than these cannot be labelled; the largest scores are shown then.
_MOST_CLASSES = 14
# The kernels are too quick to be told apart in a bar.
_PARTS = {
    "purifier": (COOL, ("purifier",)),
    "encoder": (WARM, ("encoder",)),
    "mapper": (GREEN, ("mapper",)),
    "noise, resize, reduction": (MUTED, ("noise", "resize", "reduction")),
}


def score_histogram(certificate: Certificate, title: str, *, colour: str = COOL, name: str = "scores") -> str:
    """Draw the certification scores of a certificate, with their mean, its lower bound and the thresholds of caps.

    Args:
        certificate: any.
        title: of the chart.
        colour: of the bars.
        name: unique in the page.
    """
    scores, bound, mean = certificate.scores, certificate.score_lower_bound, certificate.mean_score
    low, high = float(scores.min()), float(scores.max())
    # The bound of few samples lies so far below them that beside it they would be a sliver.
    near = bound >= low - 2 * (high - low)
    if near:
        low = min(low, bound)
    margin = 0.04 * (high - low) or 1e-3
    with style():
        figure = new_figure(WIDTH, 265)
        axes = figure.add_subplot()
        counts, edges = np.histogram(scores, _bins(scores))
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, alpha=0.8)
        top = 1.1 * float(counts.max())
        said = f"mean is at least {round_down(bound, 4)}"
        if near:
            axes.vlines(bound, 0, top, color=INK, linewidth=1.6, label=said)
        else:
            axes.plot(
                low - margin,
                0.5 * top,
                marker=CARETLEFT,
                markersize=9,
                linestyle="none",
                color=INK,
                clip_on=False,
                label=f"{said}, left of here",
            )
        axes.vlines(mean, 0, top, color=INK, linewidth=1.2, linestyles="dotted", label=f"mean {mean:.4f}")
        inside = [threshold for threshold in certificate.thresholds if threshold > low - margin]
        height = np.full(len(inside), 0.05 * top)
        axes.plot(inside, height, "|", color=INK, markersize=9, markeredgewidth=2, label="thresholds")
        axes.set(
            title=title,
            xlabel="score: (1 + cosine) / 2",
            ylabel="samples",
            ylim=(0, top),
            xlim=(low - margin, min(high + margin, 1.0)),
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", useOffset=False)
        quiet_axis(axes, grid="y")
        figure.legend(loc="outside lower left")
        return to_svg(
            figure,
            name,
            f"Histogram of the certification scores. {title}: lower bound of the mean {round_down(bound, 4)}",
        )


def _bins(scores: np.ndarray) -> np.ndarray:
    """Return edges of bins that suit the scores' spread (Freedman and Diaconis), 6 to 50 of them."""
    low, high = float(scores.min()), float(scores.max())
    if high - low < 1e-6:
        # Equal scores: one bar that can be seen.
        return np.array([low - 1e-3, min(high + 1e-3, 1.0) + 1e-9])
    wanted = len(np.histogram_bin_edges(scores, "fd")) - 1
    return np.linspace(low, high, min(max(wanted, 6), 50) + 1)


def class_bars(
    panels: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    label: str | None = None,
    target: str | None = None,
    name: str = "classes",
) -> list[str]:
    """Draw the class scores of one image as different encoders give them, a chart each, on equal axes.

    Args:
        panels: title → [K] scores.
        classes: names of the K classes.
        label: the true class, highlighted.
        target: the class that an attack aims at, highlighted.
        name: unique in the page; the charts are numbered.
    """
    shown = _largest(list(panels.values()), classes, {label, target})
    colours = [{label: COOL, target: WARM}.get(classes[k], MUTED) for k in shown]
    low = min(0.0, *(float(scores[shown].min()) for scores in panels.values()))
    high = max(float(scores[shown].max()) for scores in panels.values())
    charts = []
    for i, (title, scores) in enumerate(panels.items()):
        values = scores[shown]
        with style():
            figure = new_figure(WIDTH, 70 + 17 * len(shown))
            axes = figure.add_subplot()
            bars = axes.barh(range(len(shown)), values, color=colours, height=0.72)
            for bar, colour in zip(bars, colours, strict=True):
                bar.set_alpha(0.45 if colour == MUTED else 1.0)
            axes.axvline(0, color=MUTED, linewidth=0.8)
            best = int(values.argmax())
            axes.text(values[best] + 0.02 * (high - low), best, f"{values[best]:.2f}", va="center")
            axes.set_yticks(range(len(shown)), [short(classes[k]) for k in shown])
            for tick, colour in zip(axes.get_yticklabels(), colours, strict=True):
                if colour != MUTED:
                    tick.set(color=colour, fontweight="bold")
            axes.spines["left"].set_visible(False)
            axes.invert_yaxis()
            axes.set(
                title=title,
                xlabel="score",
                xlim=(low - 0.06 * (high - low), high + 0.16 * (high - low)),
            )
            quiet_axis(axes, grid="x")
            if 0.5 < high - low <= 2:
                # The same steps in every chart, so that they are compared at a glance.
                axes.xaxis.set_major_locator(MultipleLocator(0.5))
            spoken = f"Bars of the class scores. {title}, {values[best]:.2f}"
            charts.append(to_svg(figure, f"{name}-{i}", spoken))
    return charts


def _largest(panels: Sequence[np.ndarray], classes: Sequence[str], wanted: set[str | None]) -> list[int]:
    """Return the classes to show, in their order: all, or those wanted and the largest scores."""
    if len(classes) <= _MOST_CLASSES:
        return list(range(len(classes)))
    ranked = np.argsort(-np.max(panels, axis=0), kind="stable").tolist()
    kept = [k for k in ranked if classes[k] in wanted]
    kept += [k for k in ranked if k not in kept]
    return sorted(kept[:_MOST_CLASSES])


def short(text: str) -> str:
    """Return the name of a class for a chart, cut where there is no room for it."""
    text = printable(text)
    return text if len(text) <= 12 else text[:11] + "…"


def latency_lines(latency: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str = "latency") -> str:
    """Draw the latency of encoding one image against the number of samples.

    Args:
        latency: label → measurements as `fsfast.commands.bench.measure` returns them.
        name: unique in the page.
    """
    colours = (WARM, COOL) if len(latency) == 2 else (COOL,)
    with style():
        figure = new_figure(WIDTH, 265)
        axes = figure.add_subplot()
        for (label, measured), colour in zip(latency.items(), cycle(colours), strict=False):
            n0 = [m["n0"] for m in measured]
            axes.fill_between(
                n0,
                [m["p20_ms"] for m in measured],
                [m["p80_ms"] for m in measured],
                color=colour,
                alpha=0.18,
                linewidth=0,
            )
            axes.plot(
                n0,
                [m["p50_ms"] for m in measured],
                "o-",
                color=colour,
                markersize=4.5,
                markeredgecolor=PAPER,
                label=label,
            )
        axes.set_xticks(n0)
        axes.set(
            title="Latency of one image",
            xlabel="samples per image, n0",
            ylabel="milliseconds",
            ylim=(0, None),
        )
        axes.legend(loc="upper left")
        return to_svg(figure, name, "Lines of the latency of one image against the number of samples")


def stage_bars(steps: Mapping[str, Mapping[str, float]], *, name: str = "stages") -> str:
    """Draw the milliseconds per sample of every step as stacked bars, one per variant.

    Args:
        steps: label → step → milliseconds per sample on one thread.
        name: unique in the page.
    """
    with style():
        figure = new_figure(WIDTH, 265)
        axes = figure.add_subplot()
        position = np.arange(len(steps))
        left = np.zeros(len(steps))
        for part, (colour, names) in _PARTS.items():
            width = np.array([sum(times.get(step, 0.0) for step in names) for times in steps.values()])
            if width.any():
                axes.barh(
                    position, width, 0.6, left, color=colour, edgecolor=PAPER, linewidth=0.8, label=part
                )
            left += width
        for y, total in enumerate(left.tolist()):
            axes.text(total + 0.015 * float(left.max()), y, f"{total:.2f}", va="center")
        axes.set_yticks(position, list(steps))
        axes.invert_yaxis()
        axes.set(
            title="Work per sample", xlabel="milliseconds on one thread", xlim=(0, 1.18 * float(left.max()))
        )
        for tick in axes.get_yticklabels():
            tick.set_color(INK)
        quiet_axis(axes, grid="x")
        figure.legend(loc="outside lower left", ncols=2, columnspacing=1.2)
        return to_svg(figure, name, "Stacked bars of the milliseconds per sample of every step")
