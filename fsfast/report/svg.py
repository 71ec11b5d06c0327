"""From matplotlib figures to inline SVG that takes its colours and its font from the page around it.

Figures are drawn in the light palette below. In the SVG every colour becomes a CSS variable with that colour as
its fallback, and the ink becomes `currentColor`: so a chart follows the page between light and dark, and is
still readable as a file of its own. Equal data gives equal text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fsfast.report.markup import escape

# Blue, vermilion and green that are told apart with any colour vision, at least 4.5 : 1 against white.
INK, MUTED, LINE, PAPER = "#1a1f26", "#59636e", "#dde2e8", "#fffffe"
COOL, WARM, GREEN = "#0b67b5", "#c24600", "#0b7a5e"
_VARIABLES = {
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    COOL: "cool",
    WARM: "warm",
    GREEN: "green",
}

# Of a chart of the page, in units of the SVG, which are about CSS pixels on the narrowest telephone: there one fills
# the width, elsewhere two share a row.
WIDTH = 330.0
FONT_SIZE = 12.0

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fsfast",
    # Names of classes are text, whatever signs they hold.
    "text.parse_math": False,
    # Measures the text; the page's font is what is shown, and narrower.
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.labelsize": FONT_SIZE,
    "axes.labelpad": 6.0,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_SIZE + 1,
    "axes.titleweight": "bold",
    "axes.titlepad": 10.0,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": FONT_SIZE - 0.5,
    "ytick.labelsize": FONT_SIZE - 0.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.borderpad": 0.6,
    "legend.fontsize": FONT_SIZE - 0.5,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own settings of matplotlib are."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` × `height` units that arranges its parts without overlaps."""
    layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=2 / 72, wspace=0.04, hspace=0.06)
    return Figure(figsize=(width / 72, height / 72), layout=layout)


def quiet_axis(axes: Axes, *, grid: str) -> None:
    """Keep only the grid lines that carry the reading: "x" or "y"."""
    axes.grid(False)
    axes.grid(True, axis=grid)  # type: ignore[arg-type]


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an SVG element for a page.

    Args:
        figure: drawn in `style`.
        name: of the chart, unique in its page: ids in the SVG start with it.
        label: what the chart shows, for those who do not see it.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # A class may be named in signs that the measuring font lacks; the page's font has its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=nothing)
    found = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL)
    assert found, "matplotlib wrote another kind of SVG"
    box, body = found.groups()
    # Its style rule would hold for the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"\bid=\"", f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = body.replace(INK, "currentColor")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, sans-serif" stroke-linejoin="round">{body}</svg>'
    )
