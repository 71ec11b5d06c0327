"""SVG files of their own; of one certificate, curves of all methods beside the histogram of its scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import show_alpha
from fsfast.report.charts import score_histogram
from fsfast.report.curves import method_curves
from fsfast.report.markup import escape
from fsfast.report.svg import INK

_MARGIN, _CAPTION = 14.0, 22.0


def certificate_svg(certificate: Certificate) -> str:
    """Return an SVG document on white, for viewers that know no style sheets."""
    name = Path(certificate.image_name or "image").name
    caption = (
        f"{name}: n = {certificate.n}, α = {show_alpha(certificate.alpha)}, σ = {certificate.sigma:g}, "
        f"engine {certificate.engine}"
    )
    return document(
        caption, [method_curves(certificate), score_histogram(certificate, "Certification scores")]
    )


def document(caption: str, charts: Sequence[str]) -> str:
    """Return an SVG document on white: charts of a page beside each other, under a line of text."""
    boxes = [re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart) for chart in charts]
    assert all(boxes), "charts start at 0 0"
    sizes = [(float(box[1]), float(box[2])) for box in boxes if box]
    top, left, parts = _MARGIN + _CAPTION, _MARGIN, []
    for chart, (w, h) in zip(charts, sizes, strict=True):
        parts.append(
            chart.replace("<svg ", f'<svg x="{left:g}" y="{top:g}" width="{w:g}" height="{h:g}" ', 1)
        )
        left += w + _MARGIN
    height = top + max(h for _, h in sizes) + _MARGIN
    body = "\n".join(parts)
    # The charts take their colours from a page; here is none.
    body = re.sub(r"var\(--[a-z]+, (#[0-9a-f]{6})\)", r"\1", body).replace("currentColor", INK)
    size = f'viewBox="0 0 {left:g} {height:g}" width="{left:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n'
        f'<rect width="100%" height="100%" fill="#ffffff" />\n'
        f'<text x="{_MARGIN:g}" y="{_MARGIN + 10:g}" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">'
        f"{escape(caption)}</text>\n{body}\n</svg>\n"
    )
