"""The documents: numbers come from results files, commands exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import engines, performance, readme
from benchmarks.__main__ import ON_GPU, REGISTRY
from fsfast.cli import _parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_numbers_come_from_the_results_files():
    text = readme.README.read_text(encoding="utf-8")
    folder = re.search(r"<!-- results: (\S+) -->", text)[1]
    assert {p.stem for p in (readme.RESULTS / folder).glob("*.csv")} <= set(REGISTRY) - ON_GPU
    # Every group was measured somewhere.
    assert {p.stem for p in readme.RESULTS.glob("*/*.csv")} >= set(REGISTRY) - ON_GPU
    assert readme.updated(text) == text


def test_the_numbers_on_performance_come_from_the_results_files():
    text = performance.DOCS.read_text(encoding="utf-8")
    assert performance.updated(text) == text
    assert "<!-- techniques: cpu in " in text


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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    commands = _parser()._subparsers._group_actions[0].choices
    for name in re.findall(r"`fsfast ([a-z]+)", page.read_text(encoding="utf-8")):
        assert name in commands, name


def test_the_readme_is_not_rewritten_by_accident(tmp_path, capsys):
    before = readme.README.read_bytes()
    for argument in ("--help", "no-such-folder"):
        with pytest.raises(SystemExit):
            readme.main([argument])
    assert readme.README.read_bytes() == before
    assert "python -m benchmarks" in capsys.readouterr().err
