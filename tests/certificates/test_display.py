"""A certificate as it is shown: drawn on axes, and as HTML for a notebook."""

from __future__ import annotations

import dataclasses
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import fsfast


@pytest.fixture(scope="module")
def certificate(photograph):
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        return encoder.certify(photograph, 70, seeds=[1])


def test_the_line_is_the_curve_as_far_as_anything_is_certified(certificate):
    axes = Figure().add_subplot()
    assert certificate.plot(axes) is axes
    (line,) = axes.lines
    radii, bounds = line.get_data()
    np.testing.assert_array_equal(bounds, certificate.curve(list(radii)))
    assert (bounds > 0).all()
    assert certificate.cosine(radii[-1] + 6 * certificate.sigma / 239) is None
    assert line.get_label() == "n = 70, α = 0.001"


def test_axes_are_made_where_none_are_given(certificate):
    from matplotlib import pyplot

    axes = certificate.plot()
    assert axes.figure.number in pyplot.get_fignums()
    pyplot.close(axes.figure)


def test_what_cannot_be_drawn_on_is_refused(certificate, monkeypatch):
    with pytest.raises(TypeError, match=r"wanted ax as matplotlib's Axes, got Figure"):
        certificate.plot(Figure())
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(fsfast.errors.BackendUnavailable, match=r"pip install .*\[plot\]"):
        certificate.plot()
    # A notebook needs no matplotlib.
    assert "<svg" in certificate._repr_html_()


def test_a_notebook_shows_the_bounds_and_the_curve_in_its_own_colours(certificate):
    shown = ElementTree.fromstring(certificate._repr_html_())
    cells = {row[0].text: row[1].text for row in shown.iter("tr")}
    bound = certificate.cosine(0.125)
    assert cells["cosine ≥ at ε = 0.125"] == f"{np.floor(1000 * bound) / 1000:.3f}"
    assert cells["cosine ≥ at ε = 0.5"] == "none"
    assert cells["samples"] == "n = 70, α = 0.001, σ = 0.25"
    assert "With probability ≥ 0.999, " in shown.find("p").text
    (line,) = shown.iter("{http://www.w3.org/2000/svg}polyline")
    first, *_, last = (tuple(map(float, point.split(","))) for point in line.get("points").split())
    # From the left edge at cosine(0), down and to the right.
    assert first == pytest.approx((48, 172 - 160 * certificate.cosine(0.0)), abs=0.06)
    assert last[0] > first[0]
    assert last[1] > first[1]
    colours = re.findall(r'(?:fill|stroke|color)="([^"]+)"', certificate._repr_html_())
    assert set(colours) == {"none", "currentColor"}
    assert re.findall(r"[a-z-]*color: ?[^;\"]+", certificate._repr_html_()) == ["color: inherit"]


def test_a_notebook_shows_names_of_others_as_text(certificate):
    evil = "<script>alert(1)</script>&\u202e'\"\x1b"
    named = dataclasses.replace(
        certificate, image_name=evil, engine=evil, random_weights=True, scores=np.zeros(70)
    )
    text = named._repr_html_()
    assert "<script" not in text
    assert "\u202e" not in text
    shown = ElementTree.fromstring(text)
    title = "".join(shown.find("table/caption").itertext())
    assert title == "Certificate: <script>alert(1)</script>&\\u202e'\"\\u001b"
    assert {row[0].text: row[1].text for row in shown.iter("tr")}["engine"].endswith("(random weights)")
    assert "nothing is certified" in text
