"""The demo's page: well-formed, self-contained, escaped, and its numbers are those of the certificates."""

from __future__ import annotations

import base64
import html
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.certificates.wording import show_bound, show_radius
from fsfast.images.grid import to_grid_image
from fsfast.report import charts, curves, plot, svg
from fsfast.report.data import RADII, Subject
from fsfast.report.examples import load_examples
from fsfast.report.gather import gather
from fsfast.report.page import render_page
from fsfast.report.summary import attack_sizes, to_json, to_text
from fsfast.runtime.pipeline import STEPS
from tests.report.subjects import subjects_of

EVIL = "<script>alert(\"x\")</script>&amp;'$title'.png"


class Reader(HTMLParser):
    """Refuses elements that are not closed in order; collects attributes, texts and the rows of tables."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows, self.text = [], [], [], [], []
        self._cell = None
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.handle_startendtag(tag, attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, text):
        self.text.append(text)
        if self._cell is not None:
            self._cell += text


def values(reader, name):
    return [value for _, key, value in reader.attributes if key == name]


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    reader = Reader(page)
    links = {*values(reader, "href"), *values(reader, "src")}
    outside = {link for link in links if not link.startswith(("#", "data:image/png;base64,"))}
    assert outside == {"https://arxiv.org/abs/2601.16200"}
    assert set(re.findall(r"\w+://[^\"'\s<>)]+", page)) == outside | {"http://www.w3.org/2000/svg"}
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}


def test_ids_are_unique_and_references_lead_to_them(page):
    reader = Reader(page)
    ids = values(reader, "id")
    assert len(ids) == len(set(ids))
    used = {link[1:] for link in values(reader, "href") if link.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert used
    assert used <= set(ids)


def test_every_section_is_there(page):
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Under attack",
        "What the networks see",
        "The certificate",
        "Scores",
        "What it costs",
        "What this says and what it does not",
        "This run",
    ]
    assert page.count('<svg class="chart"') == 10


def test_headings_are_in_order(page):
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_charts_fit_a_telephone(page):
    """Each scales to any width, and is drawn so that its smallest text has 11 pixels where 328 are left for it."""
    assert not re.search(r"overflow-x|min-width: (?!0)\d{2,}", page.partition("</style>")[0])
    for chart in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', chart)[1])
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", chart)]
        assert sizes
        assert min(sizes) * 328 / width >= 11


def test_tables_that_repeat_a_chart_are_folded_away(page):
    folded = re.findall(r"<details><summary>(.*?)</summary>\n<table>.*?</table>\n</details>", page, re.DOTALL)
    assert folded == ["The curves in numbers", "The bars in numbers"]
    # The attacks and the bounds of all images stand in no chart.
    assert page.count("<table") == 4


def test_colours_can_be_read_on_light_and_on_dark_paper(page):
    """At least 4.5 : 1, as WCAG 2 wants of text."""

    def luminance(colour):
        levels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4) @ (
            0.2126,
            0.7152,
            0.0722,
        )

    palettes = re.findall(r":root \{(.*?)\}", page.partition("</style>")[0], re.DOTALL)
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", palette)) for palette in palettes]
    assert [len(scheme) for scheme in schemes[:2]] == [8, 8]
    for scheme in schemes[:2]:
        for name in ("ink", "muted", "cool", "warm", "green"):
            for ground in ("paper", "card"):
                dark, light = sorted((luminance(scheme[name]), luminance(scheme[ground])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


def test_pictures_are_those_of_the_images(page, result):
    reader = Reader(page)
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))))
        for source in values(reader, "src")
    ]
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    # Every picture has a text for those who do not see it.
    assert len(values(reader, "alt")) == len(pictures)
    assert all(values(reader, "alt"))
    case = result.cases[0]
    change = case.attack.image.pixels.astype(int) - case.image.pixels
    wanted = [
        case.image.pixels,
        np.clip(case.sample.noisy, 0, 255),
        np.rint(case.sample.purified * 255),
        case.attack.image.pixels,
        # Sixteen levels become 112 of the 127 on either side of grey.
        128 + 7 * change,
    ]
    assert np.abs(change).max() == 16
    for picture in wanted:
        assert any((picture == shown).all() for shown in pictures)


def test_bounds_on_the_page_and_in_the_terminal_are_those_of_the_certificates(page, result):
    rows = Reader(page).rows
    text = to_text(result)
    sigma = result.manifest.sigma
    named = [(case.name, case.certificate) for case in result.cases]
    named += [(variant.title, variant.certificate) for variant in result.variants]
    assert len(named) == 6
    for name, certificate in named:
        bounds = [show_bound(certificate.cosine(factor * sigma)) for factor in RADII]
        radius = show_radius(certificate.radius(0.5))
        floor = f"{np.floor(certificate.score_lower_bound * 1e4) / 1e4:.4f}"
        assert [name, floor, *bounds, radius] in rows
        assert radius in text
    for case in result.cases:
        (line,) = (
            line.split() for line in text.splitlines() if line.startswith(case.name) and "star" not in line
        )
        assert line[-4:-1] == [show_bound(case.certificate.cosine(factor * sigma)) for factor in RADII]


def test_costs_on_the_page_are_those_measured(page, result):
    rows = Reader(page).rows
    costs = [variant.steps_ms for variant in result.variants]
    assert ["step", *(variant.title for variant in result.variants)] in rows
    for step in STEPS:
        assert [step, *(f"{ms[step]:.3f}" if ms[step] else "—" for ms in costs)] in rows
    assert ["sum", *(f"{sum(ms.values()):.3f}" for ms in costs)] in rows
    assert [m["n0"] for m in result.variants[0].latency] == [1, 2]


def test_what_the_attack_does(page, result):
    for example, case in zip(load_examples(), result.cases, strict=False):
        # The examples are attacks that succeed on the plain encoder.
        assert case.attack.seen.plain_class == example.target != example.label
        change = (case.attack.image.pixels.astype(float) - case.image.pixels) / 255
        assert case.attack.l2 == pytest.approx(np.linalg.norm(change))
        row = [
            case.name,
            f"{example.label}, {example.target}",
            case.attack.seen.plain_class,
            case.attack.seen.smoothed_class,
            f"{case.attack.l2:.2f}",
            show_radius(case.certificate.radius(0.5)),
        ]
        assert row in Reader(page).rows
    assert "observation, not a certificate" in page


def test_how_many_attacks_succeed(result, page):
    outcome = (
        "the plain encoder sees the attack's target in <b>{}</b>, "
        "and the smoothed encoder still sees what is shown in <b>{}</b>"
    )
    assert outcome.format(2, 2) in page
    first, second = result.cases
    # The plain encoder resists one attack, the smoothed one none.
    seen = first.attack.seen
    swapped = replace(seen, plain=seen.smoothed, smoothed=seen.plain)
    beaten = replace(second.attack.seen, smoothed=second.attack.seen.plain)
    cases = [
        replace(case, attack=replace(case.attack, seen=seen))
        for case, seen in ((first, swapped), (second, beaten))
    ]
    assert outcome.format(1, 0) in render_page(replace(result, cases=tuple(cases)))


def test_how_attacks_compare_with_radii(result):
    radii = [case.certificate.radius(0.5) for case in result.cases]
    times = int(min(case.attack.l2 / r for case, r in zip(result.cases, radii, strict=True)))
    assert f"at least {times} times as large" in attack_sizes(result)
    within = [
        replace(case, attack=replace(case.attack, l2=r)) for case, r in zip(result.cases, radii, strict=True)
    ]
    assert "times" not in attack_sizes(replace(result, cases=tuple(within)))


def test_variants_are_certified_with_their_own_stages_and_the_same_serving_noise(result):
    assert [variant.title for variant in result.variants] == [
        "encoder alone",
        "+ mapper",
        "+ purifier",
        "+ both",
    ]
    for variant in result.variants:
        certificate = variant.certificate
        assert certificate.profile.stages == variant.stages
        assert (certificate.n, certificate.alpha) == (80, 1e-3)
        assert certificate.anchor.seed == int(result.served.seeds[0])
        assert certificate.grid_sha256 == result.cases[0].image.grid_sha256
    # The noise of certification is fresh, never shared.
    assert len({variant.certificate.seed for variant in result.variants}) == 4
    assert result.variants[-1].certificate is result.cases[0].certificate


def test_names_are_escaped(result):
    first = result.cases[0]
    seen = replace(first.seen, names=(EVIL, *first.seen.names[1:]))
    attack = replace(first.attack, target=EVIL, seen=seen)
    case = replace(first, name=EVIL, label=EVIL, seen=seen, attack=attack)
    manifest = replace(result.manifest, name=EVIL)
    evil = replace(result, cases=(case,), classes=seen.names, processor=EVIL, manifest=manifest)
    page = render_page(evil)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert EVIL in "".join(reader.text)
    assert f"{EVIL}, clean" in values(reader, "alt")
    assert html.escape(EVIL) in page
    # "$…$" would be a formula to matplotlib; it is text.
    assert "$title" in page


def test_the_same_result_gives_the_same_page(result, page):
    assert render_page(result) == page


_DRAW = """
import numpy as np
from fsfast.report.charts import class_bars
print(*class_bars({"a": np.array([0.1, 0.5]), "b": np.array([0.3, -0.2])}, "xy", label="x", target="y"))
"""


def test_charts_are_equal_in_another_process_and_under_other_settings(tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsvg.fonttype: path\n")
    drawn = [
        subprocess.run([sys.executable, "-c", _DRAW], capture_output=True, text=True, check=True, cwd=folder)
        for folder in (".", tmp_path)
    ]
    assert drawn[0].stdout == drawn[1].stdout
    assert drawn[0].stdout.startswith("<svg ")


def test_charts_take_their_colours_and_font_from_the_page(page):
    for chart in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL):
        bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", chart)
        assert "currentColor" in chart
        assert not re.search(r"#[0-9a-fA-F]{6}\b", bare)
        assert "DejaVu" not in chart
        assert "<style" not in chart
        # Text, not outlines: it can be searched, copied, and read aloud.
        assert "<text" in chart
        assert re.search(r'aria-label="[^"]+"', chart)
    style = page.partition("</style>")[0]
    defined = set(re.findall(r"(--[a-z]+):", style))
    assert set(re.findall(r"var\((--[a-z]+)", page)) <= defined


@pytest.fixture
def figures(monkeypatch):
    """Let charts return their figures instead of SVG."""
    for module in (charts, curves):
        monkeypatch.setattr(module, "to_svg", lambda figure, name, label: figure)


def test_certificate_curves(figures, result):
    certificates = {variant.title: variant.certificate for variant in result.variants}
    axes = curves.certificate_curves(certificates).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for label, certificate in certificates.items():
        radii, bounds = lines[label].get_xdata(), lines[label].get_ydata()
        np.testing.assert_allclose([certificate.cosine(r) for r in radii], bounds, atol=1e-3)
        # It ends where nothing is certified.
        assert certificate.cosine(radii[-1] + radii[1]) is None
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == [r for c in certificates.values() if (r := c.radius(0.5))]
    assert "ℓ₂" in axes.get_xlabel()


def test_method_curves(figures, result):
    certificate = result.cases[0].certificate
    figure = curves.method_curves(certificate)
    (axes,) = figure.axes
    lines = {line.get_label().split(":")[0]: line for line in axes.lines[1:]}
    for method in ("joint", "cap", "sharp", "fcsb"):
        radii, bounds = lines[method].get_xdata(), lines[method].get_ydata()
        np.testing.assert_allclose([certificate.cosine(r, method) for r in radii], bounds, atol=1e-3)
    # What is not a certificate says so beside its line.
    assert "not a certificate" in figure.legends[0].get_texts()[-1].get_text()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_certificate_curves_of_any_number(result, count):
    certificate = result.cases[0].certificate
    chart = curves.certificate_curves({f"number {i}": certificate for i in range(count)})
    assert all(f"number {i}" in chart for i in range(count))


def test_certificates_of_several_sigmas_share_no_axis(result):
    certificate = result.cases[0].certificate
    with pytest.raises(ValueError, match="one σ"):
        curves.certificate_curves({"a": certificate, "b": replace(certificate, sigma=0.5)})


def test_charts_of_a_certificate_that_certifies_nothing(result):
    nothing = replace(result.cases[0].certificate, scores=np.full(80, 0.5))
    assert nothing.cosine(0.0) is None
    assert "nothing" in curves.certificate_curves({"nothing": nothing})
    assert "nothing" in charts.score_histogram(nothing, "nothing")


@pytest.fixture(scope="module")
def many(result):
    """Certificates of 2000 scores spread so wide, whatever the processor made of them, that the bound is near."""
    certificates = []
    for variant in result.variants:
        scores = np.tile(variant.certificate.scores, 25)
        wide = 0.55 + 0.4 * (scores - scores.min()) / np.ptp(scores)
        certificates.append(replace(variant.certificate, scores=wide))
    return certificates


def test_score_histograms(figures, many):
    for certificate in many:
        figure = charts.score_histogram(certificate, "scores")
        (axes,) = figure.axes
        assert sum(bar.get_height() for bar in axes.patches) == certificate.n
        bound, mean = (lines.get_segments()[0][0][0] for lines in axes.collections)
        assert (bound, mean) == (certificate.score_lower_bound, certificate.mean_score)
        (ticks,) = axes.lines
        assert set(ticks.get_xdata()) <= set(certificate.thresholds)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels[0] == f"mean is at least {int(bound * 1e4) / 1e4:.4f}"


def test_every_histogram_fills_its_axis(figures, result, many):
    """The purified scores lie so close together that beside others, or a far bound, they would be a sliver."""
    for certificate in (*many, *(variant.certificate for variant in result.variants)):
        (axes,) = charts.score_histogram(certificate, "scores").axes
        low, high = axes.get_xlim()
        assert np.ptp(certificate.scores) >= 0.3 * (high - low)


def test_a_bound_far_from_the_scores_is_named_beside_the_axis(figures, result):
    certificate = replace(result.cases[0].certificate, scores=np.linspace(0.9, 0.901, 80))
    figure = charts.score_histogram(certificate, "scores")
    low, _ = figure.axes[0].get_xlim()
    assert certificate.score_lower_bound < low
    bound = int(certificate.score_lower_bound * 1e4) / 1e4
    assert figure.legends[0].get_texts()[0].get_text() == f"mean is at least {bound:.4f}, left of here"


def test_class_bars(figures, result):
    seen = result.cases[0].attack.seen
    panels = {"plain": seen.plain, "smoothed": seen.smoothed}
    drawn = [figure.axes[0] for figure in charts.class_bars(panels, seen.names, label="1", target="star")]
    for axes, scores in zip(drawn, panels.values(), strict=True):
        assert [bar.get_width() for bar in axes.patches] == scores.tolist()
        assert [tick.get_text() for tick in axes.get_yticklabels()] == list(seen.names)
        highlighted = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_color() != svg.MUTED]
        assert highlighted == ["1", "star"]
    assert drawn[0].get_xlim() == drawn[1].get_xlim()


def test_class_bars_of_many_classes_keep_those_that_matter(figures):
    names = [f"class {k}" for k in range(100)]
    scores = np.linspace(0, 1, 100)
    (figure,) = charts.class_bars({"plain": scores}, names, label="class 3", target="class 50")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [scores[3], scores[50], *scores[-12:]]


def test_scores_of_a_classifier_get_few_ticks(figures):
    """Steps of 0.5 are for cosines; logits reach farther."""
    (figure,) = charts.class_bars({"plain": np.array([-20.0, 30.0])}, ["a", "b"])
    assert len(figure.axes[0].get_xticks()) < 20


def test_cost_charts(figures, result):
    lines = (
        charts.latency_lines({variant.title: variant.latency for variant in result.variants}).axes[0].lines
    )
    assert [list(line.get_ydata()) for line in lines] == [
        [m["p50_ms"] for m in variant.latency] for variant in result.variants
    ]
    steps = {variant.title: variant.steps_ms for variant in result.variants}
    axes = charts.stage_bars(steps).axes[0]
    for i, ms in enumerate(steps.values()):
        bars = [bar for bar in axes.patches if round(bar.get_y() + bar.get_height() / 2) == i]
        assert sum(bar.get_width() for bar in bars) == pytest.approx(sum(ms.values()))


def test_text_fits_a_terminal(result):
    lines = to_text(result).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("bit-equal" in line and "same" in line for line in lines)


def test_json_has_what_the_page_has(result):
    record = to_json(result)
    case, certificate = record["images"][0], result.cases[0].certificate
    assert [b["cosine"] for b in case["bounds"]] == [certificate.cosine(b["epsilon"]) for b in case["bounds"]]
    assert case["radius_cosine_0.5"] == certificate.radius(0.5)
    assert case["attack"]["plain"]["class"] == "star"
    assert [v["stages"] for v in record["variants"]] == [list(v.stages) for v in result.variants]


@pytest.mark.parametrize(
    "stages", [("encoder",), ("encoder", "mapper"), ("purifier", "encoder")], ids=" ".join
)
def test_fewer_stages(stages):
    with pytest.MonkeyPatch.context() as patch, fsfast.SmoothedEncoder("demo", stages=stages) as encoder:
        patch.setattr("fsfast.report.gather.LATENCY_N0", (1,))
        patch.setattr("fsfast.report.gather.LATENCY_RUNS", 1)
        result = gather(encoder, subjects_of(encoder, 1), n=20)
    page = render_page(result)
    Reader(page)
    assert [v.stages for v in result.variants] == ([("encoder",), stages] if len(stages) > 1 else [stages])
    assert ("purified" in page) == ("purifier" in stages)


def test_an_engine_without_classes(pooled_path, photograph):
    with pytest.MonkeyPatch.context() as patch, fsfast.SmoothedEncoder(pooled_path) as encoder:
        patch.setattr("fsfast.report.gather.LATENCY_N0", (1,))
        patch.setattr("fsfast.report.gather.LATENCY_RUNS", 1)
        image = to_grid_image(photograph, encoder.manifest.grid)
        result = gather(encoder, [Subject("cat", image)], n=20)
    page = render_page(result)
    Reader(page)
    assert result.classes is None
    assert "Under attack" not in page
    assert "random weights" in page
    for text in (page, to_text(result)):
        assert "plain encoder:" not in text
        assert "smoothed:" not in text


def test_a_grid_that_needs_the_purifier(resized_path, photograph):
    with pytest.MonkeyPatch.context() as patch, fsfast.SmoothedEncoder(resized_path) as encoder:
        patch.setattr("fsfast.report.gather.LATENCY_N0", (1,))
        patch.setattr("fsfast.report.gather.LATENCY_RUNS", 1)
        image = to_grid_image(photograph, encoder.manifest.grid)
        result = gather(encoder, [Subject("cat", image)], n=20)
    assert all("purifier" in variant.stages for variant in result.variants)
    Reader(render_page(result))


def test_nothing_to_compare():
    with fsfast.SmoothedEncoder("demo") as encoder:
        result = gather(encoder, subjects_of(encoder, 1), n=20, compare=False)
    assert result.variants == ()
    assert result.steps_ms["encoder"] > 0
    page = render_page(result)
    Reader(page)
    assert "What it costs" not in page
    assert "ms per sample" in to_text(result)


def test_a_certificate_as_a_file_of_its_own(result):
    certificate = replace(result.cases[0].certificate, image_name="<b>&.png")
    document = plot.certificate_svg(certificate)
    assert ElementTree.fromstring(document).tag.endswith("svg")
    assert "&lt;b&gt;&amp;.png: n = 80" in document
    assert "var(" not in document
    assert "currentColor" not in document
    assert "Certification scores" in document
    assert "not a certificate" in document
