"""The documents: numbers come from results files, commands exist, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import ON_GPU, REGISTRY
from benchmarks.cpu import engines, families, outside
from benchmarks.pages import plots, readme
from fsfast.cli import _parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_numbers_come_from_the_results_files():
    text = "".join(page.read_text(encoding="utf-8") for page in readme.PAGES)
    for page in readme.PAGES:
        before = page.read_text(encoding="utf-8")
        assert readme.updated(before) == before, page
    folder = re.search(r"<!-- results: (\S+) -->", text)[1]
    assert {p.stem for p in (readme.RESULTS / folder).glob("*.csv")} <= set(REGISTRY) - ON_GPU
    # Every group was measured somewhere.
    assert {p.stem for p in readme.RESULTS.glob("*/*.csv")} >= set(REGISTRY) - ON_GPU
    for block in ("techniques: cpu in ", "certificates -->", "study: demo -->"):
        assert f"<!-- {block}" in text


def test_the_readmes_plots_are_drawn_from_the_results_files(monkeypatch, tmp_path):
    committed = plots.FOLDER
    monkeypatch.setattr(plots, "FOLDER", tmp_path)
    assert plots.main() == 0
    for drawn in tmp_path.iterdir():
        # Where letters stand depends on the version of matplotlib; what they say does not.
        words = [
            re.findall(r"<text[^>]*>([^<]*)", p.read_text(encoding="utf-8"))
            for p in (drawn, committed / drawn.name)
        ]
        assert words[0] == words[1], drawn.name
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("path", sorted(plots.FOLDER.iterdir()), ids=lambda p: p.name)
def test_plots_can_be_read_on_a_telephone(path):
    """Without a size of its own an SVG fills its column; of a telephone's 390 pixels, 358 are left for it."""
    text = path.read_text(encoding="utf-8")
    width, drawn = re.search(r'^<svg [^>]*\bwidth="(\d+)"[^>]*viewBox="0 0 (\d+) ', text).groups()
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", text)]
    assert sizes
    assert min(sizes) * min(int(width), 358) / int(drawn) >= 11


def test_the_sites_pictures_follow_its_switch_of_colours():
    """The README's pictures follow the reader's system; the site has a switch of its own."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = hooks.on_page_markdown(
        readme, SimpleNamespace(file=SimpleNamespace(src_uri="index.md")), None, None
    )
    for name in ("certified", "latency"):
        for mode in ("light", "dark"):
            assert f"](plots/{name}-{mode}.svg#only-{mode})" in shown
    assert "<picture>" not in shown


def test_a_machines_folder_names_its_vector_extensions():
    for path in readme.RESULTS.glob("*-cores"):
        assert re.search(r"-(sse2|avx2|avx512|neon)(-(vnni|bf16|amx|sve|i8mm|masked))*-\d+-cores$", path.name)
        for file in path.glob("*.csv"):
            assert {row["device"] for row in engines.read(file)} == {path.name}, file


def test_the_engines_numbers_come_from_the_results_file():
    text = engines.DOCS.read_text(encoding="utf-8")
    assert engines.updated(text) == text
    assert {row["engine"] for row in engines.read(engines.CSV)} <= set(engines.NAMES)
    assert "<!-- engines -->" in text
    assert "`clip-b16`" in text


def test_the_numbers_of_encoders_from_outside_come_from_the_results_file():
    text = outside.DOCS.read_text(encoding="utf-8")
    assert outside.updated(text) == text
    rows = outside.read(outside.CSV)
    wanted = {(name, layout) for name, own in outside.NETWORKS.items() for layout in ("pooled", own)}
    assert {(row["network"], row["layout"]) for row in rows} == wanted
    assert "| `resnet18` |" in text


def test_the_numbers_of_the_families_come_from_the_results_file():
    text = families.DOCS.read_text(encoding="utf-8")
    assert families.updated(text) == text
    assert "<!-- families -->" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r'(?:\]\(|\bsrc(?:set)?=")([^)"]+)[)"]', page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_exist(page):
    folders = "csrc|fsfast|export|train|benchmarks|tests|docs"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_every_step_of_an_image_and_of_a_certificate_is_marked_in_the_code():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = set(re.findall(r"^\| (\d\. \w+|[A-H]\. \w+) \|", page, re.M))
    assert len(steps) == 17
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "fsfast").rglob("*.py"))
    marks = set(re.findall(r"(?:# |and |`\. )((?:\d|[A-H])\. [A-Z]\w+)\b", sources))
    assert marks == steps


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    commands = _parser()._subparsers._group_actions[0].choices
    for name in re.findall(r"`fsfast ([a-z]+)", page.read_text(encoding="utf-8")):
        assert name in commands, name


def test_documents_are_not_rewritten_by_accident(tmp_path, capsys):
    before = [page.read_bytes() for page in readme.PAGES]
    for argument in ("--help", "no-such-folder"):
        with pytest.raises(SystemExit):
            readme.main([argument])
    assert [page.read_bytes() for page in readme.PAGES] == before
    assert "python -m benchmarks" in capsys.readouterr().err
