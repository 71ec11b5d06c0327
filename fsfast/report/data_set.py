"""The certificates of a data set as a table, as JSON, as CSV and as a chart; nothing is rounded up."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from fsfast.certificates.data_set import DataSet, certified, median
from fsfast.certificates.wording import show_alpha, show_radius
from fsfast.report.text import RANDOM_WEIGHTS, table

# Decimals of a share in CSV.
_DECIMALS = 6


def usual_radii(found: DataSet) -> list[float]:
    """Return multiples of σ/4, up to the first that is certified for no image."""
    step = found.sigma / 4
    largest = max(float(radii[-1]) for radii in (found.radii, found.class_radii) if radii is not None)
    return [step * k for k in range(1, int(largest / step) + 2)]


def to_text(found: DataSet, epsilons: Sequence[float]) -> str:
    """Return what a terminal shows."""
    images = len(found)
    named = {f"cos ≥ {found.cosine:g}": found.radii}
    if found.class_radii is not None:
        named["same class"] = found.class_radii
    header = ["ℓ2 radius ε", "ε/σ"]
    for name in named:
        header += [name, "of images"]
    rows = []
    for epsilon in epsilons:
        row = [f"{epsilon:g}", f"{epsilon / found.sigma:g}"]
        for radii in named.values():
            count = certified(radii, epsilon)
            row += [str(count), f"{_share(count, images, 3) * 100:.1f} %"]
        rows.append(row)
    medians = [f"{show_radius(median(radii))} for {name}" for name, radii in named.items()]
    said = [
        table(rows, header),
        f"\n{images} image{'s' if images > 1 else ''}, median radius {', '.join(medians)}; σ = {found.sigma:g}, "
        f"engine {found.engine}.",
        f"Each certificate is wrong with probability ≤ {show_alpha(found.alpha)}, on its own.",
    ]
    return "\n".join([*said, RANDOM_WEIGHTS] if found.random_weights else said)


def to_csv(found: DataSet, epsilons: Sequence[float]) -> str:
    """Return one line per radius: how many images are certified, and their share, rounded down."""
    names = ["epsilon", "images", "certified", "share"]
    if found.class_radii is not None:
        names += ["class_certified", "class_share"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for epsilon in epsilons:
        row: list[object] = [repr(float(epsilon)), len(found)]
        for radii in (found.radii, found.class_radii):
            if radii is not None:
                count = certified(radii, epsilon)
                row += [count, f"{_share(count, len(found), _DECIMALS):.{_DECIMALS}f}"]
        writer.writerow(row)
    return buffer.getvalue()


def to_json(found: DataSet, epsilons: Sequence[float]) -> dict[str, Any]:
    """Return the findings as a JSON document; counts instead of shares, since they are exact."""
    named = {"": found.radii}
    if found.class_radii is not None:
        named["class_"] = found.class_radii
    return {
        "engine": found.engine,
        "images": len(found),
        "cosine": found.cosine,
        "alpha": found.alpha,
        "sigma": found.sigma,
        **{f"median_{name}radius": median(radii) for name, radii in named.items()},
        "radii": [
            {"epsilon": epsilon}
            | {f"{name}certified": certified(radii, epsilon) for name, radii in named.items()}
            for epsilon in epsilons
        ],
        "random_weights": found.random_weights,
    }


def to_svg(found: DataSet) -> str:
    """Return an SVG document: the share of images against the radius, as exact steps; matplotlib is there."""
    from fsfast.report import svg
    from fsfast.report.plot import document

    with svg.style():
        figure = svg.new_figure(2 * svg.WIDTH, 305)
        axes = figure.add_subplot()
        axes.set(
            title="Certified images against the size of the attack",
            xlabel="ℓ₂ radius ε, pixels in [0, 1]",
            ylabel="share of images",
            ylim=(0, 1.02),
        )
        right = 1.04 * max(*_steps(found.radii)[0], found.sigma)
        axes.set_xlim(0, right)
        axes.plot(*_steps(found.radii), color=svg.COOL, label=f"cosine ≥ {found.cosine:g}")
        if found.class_radii is not None:
            axes.plot(*_steps(found.class_radii), color=svg.WARM, dashes=(5, 2), label="same class")
        axes.legend(loc="upper right")
        chart = svg.to_svg(figure, "data-set", "Share of certified images against the radius of the attack")
    caption = (
        f"{len(found)} images, α = {show_alpha(found.alpha)} each, σ = {found.sigma:g}, engine {found.engine}"
    )
    return document(caption, [chart])


def _steps(radii: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the corners of the share of images whose certified radius is at least x."""
    x, y = [0.0], [certified(radii, 0.0) / len(radii)]
    for radius in np.unique(radii[radii > 0]):
        after = int(np.count_nonzero(radii > radius)) / len(radii)
        x += [float(radius), float(radius)]
        y += [y[-1], after]
    return x, y


def _share(count: int, images: int, decimals: int) -> float:
    """Return a share, rounded down to so many decimals."""
    return count * 10**decimals // images / 10**decimals
