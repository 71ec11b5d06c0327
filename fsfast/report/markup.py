"""Pieces of the page's HTML. Names and captions are escaped here; what is HTML already says so."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fsfast.notebook import escape


def section(title: str, content: str, *, short: bool = False) -> str:
    """Return a section; a short one stays on one page of paper."""
    opening = '<section class="short">' if short else "<section>"
    return f"{opening}\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def figure(chart: str, caption: str) -> str:
    """Return a chart with its caption."""
    return f'<figure class="figure">{chart}\n<figcaption>{prose(caption)}</figcaption></figure>'


def pair(*figures: str) -> str:
    """Return figures that share a row where it is wide enough for two."""
    return f'<div class="pair">\n{"".join(figures)}\n</div>'


def fold(summary: str, content: str) -> str:
    """Return content that is shown when its summary is opened."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def prose(text: str) -> str:
    """Escape a caption; keep "n = 1000" on one line, and set indices as such."""
    return escape(text).replace(" = ", "\u00a0=\u00a0").replace("S_L", "S<sub>L</sub>").replace("ℓ2", "ℓ₂")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, kind: str = "") -> str:
    """Return a table; headers and cells are HTML already. `kind` is its class in the style sheet."""
    opening = f'<table class="{kind}">' if kind else "<table>"
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f"{opening}<caption>{prose(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>"
    )


def picture(pixels: np.ndarray, alt: str, caption: str) -> str:
    """Return `image` with its caption."""
    return f"<figure>{image(pixels, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def image(pixels: np.ndarray, alt: str, kind: str = "") -> str:
    """Return [H, W, 3] levels of 0 to 255 as an image element that holds its own PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width, _ = pixels.shape
    style = f' class="{kind}"' if kind else ""
    return f'<img{style} src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}" height="{height}" />'
