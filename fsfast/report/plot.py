"""One certificate as an SVG file of its own: curves of all methods above the histogram of its scores."""

from __future__ import annotations

import re
from pathlib import Path

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import show_alpha
from fsfast.report.charts import score_histograms
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
    charts = [method_curves(certificate), score_histograms({"Certification scores": certificate})]
    boxes = [re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart) for chart in charts]
    assert all(boxes), "charts start at 0 0"
    sizes = [(float(box[1]), float(box[2])) for box in boxes if box]
    width = max(w for w, _ in sizes) + 2 * _MARGIN
    top, parts = _MARGIN + _CAPTION, []
    for chart, (w, h) in zip(charts, sizes, strict=True):
        parts.append(
            chart.replace("<svg ", f'<svg x="{_MARGIN:g}" y="{top:g}" width="{w:g}" height="{h:g}" ', 1)
        )
        top += h + _MARGIN
    body = "\n".join(parts)
    # The charts take their colours from a page; here is none.
    body = re.sub(r"var\(--[a-z]+, (#[0-9a-f]{6})\)", r"\1", body).replace("currentColor", INK)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top:g}" width="{width:g}" height="{top:g}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff" />\n'
        f'<text x="{_MARGIN:g}" y="{_MARGIN + 10:g}" font-family="system-ui, sans-serif" font-size="11" fill="{INK}">'
        f"{escape(caption)}</text>\n{body}\n</svg>\n"
    )
