"""Curves of what is certified against the radius: several certificates, or one by every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsfast.bounds.cosine import CosineMethod
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.display import certified_part
from fsfast.certificates.wording import show_radius
from fsfast.report.svg import COOL, GREEN, INK, MUTED, PAPER, WARM, WIDTH, new_figure, style, to_svg


def certificate_curves(
    certificates: Mapping[str, Certificate], *, cosine: float = 0.5, name: str = "curves"
) -> str:
    """Draw the certified cosine of one or more certificates against the ℓ2 radius.

    Args:
        certificates: label → certificate; at least one, all of one σ.
        cosine: drawn as a line, with a dot where each curve meets it.
        name: unique in the page.

    Raises:
        ValueError: no certificates, or of several σ.
    """
    sigmas = {certificate.sigma for certificate in certificates.values()}
    if len(sigmas) != 1:
        raise ValueError(
            f"wanted certificates of one σ, which is the unit of the second axis; got {sorted(sigmas)}"
        )
    (sigma,) = sigmas
    with style():
        figure, axes = _radius_axes(sigma, cosine, "Certified cosine", len(certificates))
        for i, (label, certificate) in enumerate(certificates.items()):
            line = series(i, len(certificates))
            _curve(axes, certificate.curve, sigma, label=label, **line)
            if radius := certificate.radius(cosine):
                axes.plot(radius, cosine, "o", color=line["color"], markersize=7, markeredgecolor=PAPER)
        _finish(figure, axes, sigma, cosine)
        reached = ", ".join(f"{label} {show_radius(c.radius(cosine))}" for label, c in certificates.items())
        return to_svg(
            figure,
            name,
            "Curves of the certified cosine against the radius of the attack. "
            f"Certified radius for cosine ≥ {cosine:g}: {reached}",
        )


def method_curves(certificate: Certificate, *, cosine: float = 0.5, name: str = "methods") -> str:
    """Draw what the same samples certify by every method, and the paper's plug-in number beside it.

    Args:
        certificate: any.
        cosine: drawn as a line.
        name: unique in the page.
    """
    sigma = certificate.sigma
    with style():
        figure, axes = _radius_axes(sigma, cosine, "The same samples, by every method", len(METHOD_LINES))
        for method, (label, line) in METHOD_LINES.items():
            _curve(axes, partial(certificate.curve, method=method), sigma, label=label, **line)
        _finish(figure, axes, sigma, cosine)
        return to_svg(figure, name, "Curves of the certified cosine for every method")


# Label and line of every method.
METHOD_LINES: dict[CosineMethod, tuple[str, dict[str, Any]]] = {
    "joint": ("joint: mean, caps and length across", {"color": COOL, "linewidth": 2.2}),
    "cap": ("cap: the best threshold", {"color": GREEN, "linewidth": 1.5}),
    "sharp": ("sharp: the mean alone, exactly", {"color": WARM, "linewidth": 1.5}),
    "fcsb": ("fcsb: the paper's theorem", {"color": INK, "linewidth": 1.2}),
    "paper": ("the paper's plug-in: not a certificate", {"color": MUTED, "linewidth": 1.0, "dashes": (2, 2)}),
}


def _radius_axes(sigma: float, cosine: float, title: str, lines: int) -> tuple[Figure, Axes]:
    """Return a figure with room for that many lines in its legend, and its axes."""
    figure = new_figure(WIDTH, 275 + 18 * lines)
    axes = figure.add_subplot()
    axes.axhline(cosine, color=MUTED, linewidth=0.9, dashes=(4, 3))
    axes.set(title=title, xlabel="ℓ₂ radius ε, pixels in [0, 1]", ylabel="cosine ≥", ylim=(0, 1.02))
    axes.set_yticks(np.linspace(0, 1, 5))
    above = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, 1 / sigma), partial(np.multiply, sigma))
    )
    above.set_xlabel("ε / σ")
    above.spines["top"].set_visible(False)
    return figure, axes


def _finish(figure: Figure, axes: Axes, sigma: float, cosine: float) -> None:
    """Set the range that all curves need, and the legend."""
    ends = [float(np.max(line.get_xdata(), initial=0.0)) for line in axes.lines[1:]]
    right = 1.04 * max(*ends, sigma)
    axes.set_xlim(0, right)
    axes.text(0.02 * right, cosine - 0.015, f"cosine {cosine:g}", color=MUTED, va="top")
    figure.legend(loc="outside lower left")


def series(position: int, count: int) -> dict[str, Any]:
    """Return how the curve at `position` of `count` is drawn, as options of matplotlib.

    Four are the choices of an engine's stages: the colour says purifier or not, a thin line over a wide pale one
    mapper or not, so that both are seen where they coincide.
    """
    if count == 4:
        wide, thin = {"linewidth": 4.5, "alpha": 0.45}, {"linewidth": 1.6, "alpha": 1.0}
        return {"color": (WARM, COOL)[position // 2], **(wide, thin)[position % 2]}
    colours = (WARM, COOL) if count == 2 else (COOL, WARM, GREEN)
    dashes = ((), (5, 2), (1.5, 1.5))[position // len(colours) % 3]
    return {"color": colours[position % len(colours)], **({"dashes": dashes} if dashes else {})}


def swatch(position: int, count: int) -> str:
    """Return a small SVG element that shows the line of `series(position, count)`."""
    line = series(position, count)
    variable = {WARM: "warm", COOL: "cool", GREEN: "green"}[line["color"]]
    dash = " ".join(f"{2 * length:g}" for length in line.get("dashes", ()))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true">'
        f'<path d="M1 4H27" stroke="var(--{variable})" stroke-width="{1.25 * line.get("linewidth", 1.8):g}" '
        f'stroke-opacity="{line.get("alpha", 1.0):g}" fill="none"{dashes} /></svg>'
    )


def _curve(axes: Axes, bounds: Callable[[Sequence[float]], np.ndarray], sigma: float, **options: Any) -> None:
    """Draw a bound from radius 0 to where it ends."""
    axes.plot(*certified_part(bounds, sigma), **options)
