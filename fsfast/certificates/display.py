"""A certificate to look at: its curve drawn by matplotlib, and a table with that curve for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fsfast.certificates.statement import Statement
from fsfast.certificates.wording import (
    show_alpha,
    show_bound,
    show_confidence,
    show_epsilon,
    show_radius,
)
from fsfast.errors import BackendUnavailable
from fsfast.installation import pip_install_extras
from fsfast.notebook import escape, facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# No bound reaches farther, in units of σ; few reach half of it.
_FARTHEST = 6.0

# The drawing in a notebook: its size, and where its axes stand, in units of the SVG.
_WIDTH, _HEIGHT = 420, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 408, 12, 172


def certified_part(
    bounds: Callable[[Sequence[float]], np.ndarray], sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve from radius 0 to where nothing is certified any more.

    Args:
        bounds: radii [R] → bounds [R], NaN where there is none.
        sigma: noise level in [0,1] pixel units.

    Returns:
        Radii and bounds, both float64 of one length, which may be 0.
    """
    radii = np.linspace(0.0, _FARTHEST * sigma, 240)
    values = bounds(list(radii))
    return radii[values > 0], values[values > 0]


def plot(certificate: Statement, ax: Axes | None) -> Axes:
    """Draw the certified cosine against the radius; see `Certificate.plot`."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    except ImportError as error:
        raise BackendUnavailable(
            f"plot needs matplotlib ({error}); {pip_install_extras('plot')}, or take the numbers from `curve`"
        ) from error
    if ax is None:
        _, ax = pyplot.subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"wanted ax as matplotlib's Axes, got {type(ax).__name__}; plt.subplots()[1] is one")
    label = f"n = {certificate.n}, α = {show_alpha(certificate.alpha)}"
    ax.plot(*certified_part(certificate.curve, certificate.sigma), label=label)
    ax.set(xlabel="ℓ₂ radius ε, pixels in [0, 1]", ylabel="certified cosine ≥")
    ax.set_xlim(left=0.0)
    ax.set_ylim(0.0, 1.02)
    return ax


def to_html(certificate: Statement) -> str:
    """Return a table and the curve, for notebooks light and dark; needs no matplotlib."""
    sigma = certificate.sigma
    rows = {
        "engine": certificate.engine + (" (random weights)" if certificate.random_weights else ""),
        "certified": f"{certificate.anchor.kind} direction",
        "samples": f"n = {certificate.n}, α = {show_alpha(certificate.alpha)}, σ = {sigma:g}",
    }
    for radius in (0.5 * sigma, sigma, 2.0 * sigma):
        rows[f"cosine ≥ at ε = {show_epsilon(radius)}"] = show_bound(certificate.cosine(radius))
    rows["radius for cosine ≥ 0.5"] = show_radius(certificate.radius(0.5))
    height, width = certificate.grid
    says = (
        f"With probability ≥ {show_confidence(certificate.alpha)}, for every image on the {height}×{width} grid within "
        "ℓ2 distance ε of this one ([0,1] units): the smoothed feature has at least this cosine to the certified "
        "direction."
    )
    title = f"Certificate: {certificate.image_name or 'image'}"
    return facts(title, rows, f"{_svg(certificate)}<p>{escape(says)}</p>")


def _svg(certificate: Statement) -> str:
    """Return the curve as an SVG element in the colour of the text around it."""
    radii, bounds = certified_part(certificate.curve, certificate.sigma)
    end = 1.04 * max(certificate.sigma, radii.max(initial=0.0))

    def x(radius: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * radius / end

    def y(bound: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * bound

    parts = [
        f'<path d="M{_LEFT} {y(level):g}H{_RIGHT}" stroke-opacity="0.25" />'
        f"{_text(_LEFT - 6, y(level) + 4, f'{level:g}', 'end')}"
        for level in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    step = certificate.sigma * (0.5 if end < 3.0 * certificate.sigma else 1.0)
    parts += [_text(x(r), _BOTTOM + 16, show_epsilon(r), "middle") for r in np.arange(0.0, end, step)]
    parts.append(_text(_RIGHT, _BOTTOM + 34, "ℓ₂ radius ε, pixels in [0, 1]", "end"))
    if radii.size:
        points = " ".join(f"{x(r):.1f},{y(b):.1f}" for r, b in zip(radii, bounds, strict=True))
        parts.append(f'<polyline points="{points}" stroke-width="2" />')
    else:
        parts.append(_text((_LEFT + _RIGHT) / 2, y(0.5) - 6, "nothing is certified", "middle"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'aria-label="Curve of the certified cosine against the radius" style="max-width: 100%" fill="none" '
        f'stroke="currentColor" font-size="11" font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor" stroke="none">{escape(text)}</text>'
