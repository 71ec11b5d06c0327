"""The charts: each function draws one from plain data or certificates, and returns it as an SVG element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.ticker import MultipleLocator

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import round_down
from fsfast.report.svg import (
    COOL,
    GREEN,
    HALF,
    INK,
    MUTED,
    PAPER,
    WARM,
    WHOLE,
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


def score_histograms(certificates: Mapping[str, Certificate], *, name: str = "scores") -> str:
    """Draw the certification scores of one or more certificates, a panel each, with S_L, mean and thresholds.

    Args:
        certificates: label → certificate.
        name: unique in the page.
    """
    low = min(min(float(c.scores.min()), c.score_lower_bound) for c in certificates.values())
    low = max(0.0, low - 0.04 * (1 - low))
    colours = (WARM, COOL) if len(certificates) == 2 else (COOL,)
    with style():
        figure = new_figure(WHOLE, 60 + 120 * len(certificates))
        panels = figure.subplots(len(certificates), sharex=True, squeeze=False)[:, 0]
        for axes, (label, c), colour in zip(panels, certificates.items(), cycle(colours), strict=False):
            counts, _, _ = axes.hist(c.scores, _bins(c.scores), color=colour, alpha=0.8)
            # Room for the label above the bars.
            top = 1.35 * counts.max()
            axes.vlines(c.score_lower_bound, 0, top, color=INK, linewidth=1.2)
            # Thresholds of caps, as ticks inside the axis.
            inside = [t for t in c.thresholds if t > low]
            axes.vlines(inside, 0, 0.06 * top, color=INK, linewidth=1.6)
            axes.vlines(c.mean_score, 0, 1.06 * counts.max(), color=INK, linewidth=1.0, linestyles="dotted")
            side = -1 if c.score_lower_bound > (1 + low) / 2 else 1
            axes.text(
                c.score_lower_bound + side * 0.008 * (1 - low),
                0.97 * top,
                f"S_L = {round_down(c.score_lower_bound, 4)}, mean {c.mean_score:.4f} (dotted)",
                ha="right" if side < 0 else "left",
                va="top",
            )
            axes.set(title=label, ylim=(0, top), xlim=(low, 1.0))
            quiet_axis(axes, grid="y")
        panels[-1].set_xlabel("score (1 + cosine to the served direction) / 2")
        figure.supylabel("samples", fontsize="medium")
        return to_svg(figure, name, "Histograms of the certification scores")


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
) -> str:
    """Draw the class scores of one image as different encoders give them, a panel each, on one axis.

    Args:
        panels: title → [K] scores.
        classes: names of the K classes.
        label: the true class, highlighted.
        target: the class that an attack aims at, highlighted.
        name: unique in the page.
    """
    shown = _largest(list(panels.values()), classes, {label, target})
    colours = [{label: COOL, target: WARM}.get(classes[k], MUTED) for k in shown]
    with style():
        figure = new_figure(WHOLE, 185)
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        low = min(0.0, *(float(scores[shown].min()) for scores in panels.values()))
        high = max(float(scores[shown].max()) for scores in panels.values())
        for axes, (title, scores) in zip(grid, panels.items(), strict=True):
            values = scores[shown]
            bars = axes.bar(range(len(shown)), values, color=colours, width=0.72)
            for bar, colour in zip(bars, colours, strict=True):
                bar.set_alpha(0.45 if colour == MUTED else 1.0)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            best = int(values.argmax())
            axes.text(best, values[best] + 0.02 * (high - low), f"{values[best]:.2f}", ha="center")
            axes.set_xticks(range(len(shown)), [_short(classes[k]) for k in shown])
            for tick, colour in zip(axes.get_xticklabels(), colours, strict=True):
                if colour != MUTED:
                    tick.set(color=colour, fontweight="bold")
            axes.tick_params(axis="x", length=0)
            axes.spines["bottom"].set_visible(False)
            axes.set(
                title=title, xlabel="class", ylim=(low - 0.06 * (high - low), high + 0.14 * (high - low))
            )
            quiet_axis(axes, grid="y")
        if high - low > 0.5:
            # The same steps in every chart, so that they are compared at a glance.
            grid[0].yaxis.set_major_locator(MultipleLocator(0.25))
        grid[0].set_ylabel("score (mean cosine)")
        return to_svg(figure, name, "Bars of the class scores")


def _largest(panels: Sequence[np.ndarray], classes: Sequence[str], wanted: set[str | None]) -> list[int]:
    """Return the classes to show, in their order: all, or those wanted and the largest scores."""
    if len(classes) <= _MOST_CLASSES:
        return list(range(len(classes)))
    ranked = np.argsort(-np.max(panels, axis=0), kind="stable").tolist()
    kept = [k for k in ranked if classes[k] in wanted]
    kept += [k for k in ranked if k not in kept]
    return sorted(kept[:_MOST_CLASSES])


def _short(text: str) -> str:
    return text if len(text) <= 8 else text[:7] + "…"


def latency_lines(latency: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str = "latency") -> str:
    """Draw the latency of encoding one image against the number of samples.

    Args:
        latency: label → measurements as `fsfast.commands.bench.measure` returns them.
        name: unique in the page.
    """
    colours = (WARM, COOL) if len(latency) == 2 else (COOL,)
    with style():
        figure = new_figure(HALF, 250)
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
        figure = new_figure(HALF, 250)
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
