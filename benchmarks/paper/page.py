"""The page of the results' folder: one HTML file, made from the files that lie beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.measuring.tables import read
from benchmarks.paper import quoted, sections
from benchmarks.paper.comparison import Compared
from benchmarks.paper.folder import FILES, SETTINGS
from fsfast.certificates.wording import show_alpha
from fsfast.report.markup import escape, fold, section, table
from fsfast.report.page import TEMPLATE

_DRIVER = {"driver": "driver_version", "clock": "clocks.sm", "power limit": "power.limit"}
_VERSIONS = ("fsfast", "python", "numpy", "onnxruntime", "torch", "triton")


def render_page(folder: Path, cells: Sequence[Compared]) -> str:
    """Return the page as HTML.

    Args:
        folder: of the results.
        cells: the comparison of what is there.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    parts = [
        sections.seconds(cells, settings),
        sections.similarity(cells, settings),
        sections.table_2(cells, settings),
        sections.table_5(cells),
        _what_compares(settings),
        _with_what(folder),
        _this_run(folder, settings),
    ]
    device = escape(settings["device"])
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="The paper’s tables, measured again",
        lead=f'Feature-space Smoothing, <a href="{quoted.ADDRESS}">arXiv 2601.16200v1</a>: Tables S.8, 2 and 5 beside '
        f"what fsfast measured on {device}.",
        notes=_notes(cells, settings),
        sections="\n".join(parts),
    )


def _notes(cells: Sequence[Compared], settings: Mapping[str, Any]) -> str:
    notes, wanted = [], settings["images"][0]
    if settings["rehearsal"]:
        notes.append("A rehearsal with random weights: no number on this page says anything about the paper.")
    measured = [cell.images for cell in cells if cell.images and cell.quantity != "seconds"]
    if min(measured, default=0) < wanted:
        notes.append(
            f"Not finished: some means are over fewer than {wanted} images. The same command goes on."
        )
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _what_compares(settings: Mapping[str, Any]) -> str:
    recipe = Path(settings["recipe"]).name.removesuffix(".toml")
    said = [
        "What a language model answers is out of reach here: Tables 1, 3, 4, S.6 and S.7, and accuracy and attack "
        "success in Tables 5 and S.8, are not measured.",
        f"The encoder is that of the recipe {escape(recipe)}. Table S.8 is about LLaVA-1.5’s "
        "(llava-1.5), Tables 2 and 5 about CLIP ViT-B/16 (clip-b16): with another encoder the rows show how the "
        "method carries over, not whether a number is right.",
        _where_from(settings),
        "Where M stands without P, it is the mapper that was made for standing behind P.",
        "The noise is that of certificates, integers on the pixel grid; the paper’s is continuous.",
    ]
    items = "\n".join(f"<li>{text}</li>" for text in said)
    return section("What compares and what does not", f"<ul>\n{items}\n</ul>", short=True)


def _where_from(settings: Mapping[str, Any]) -> str:
    if settings["train"] is not None:
        purifier, mapper = settings["train"]
        return f"P and M were trained by Algorithm 1, in {purifier} and {mapper} steps."
    mapper = "M is what its file holds." if settings["mapper"] else "There is no M: its rows are missing."
    return f"The paper fine-tuned P and trained M, and published neither. P is what its file holds. {mapper}"


def _with_what(folder: Path) -> str:
    tables = [
        (FILES.removesuffix(".csv"), ["for", "file", "bytes", "sha256"], ("role", "name", "bytes", "sha256")),
        ("engines", ["engine", "stages", "MB", "digest"], ("engine", "stages", "megabytes", "digest")),
        ("images", ["σ", "networks", "function of the certificates"], ("sigma", "networks", "function_id")),
    ]
    parts = []
    for name, header, columns in tables:
        rows = _distinct(folder / f"{name}.csv", columns)
        if rows:
            parts.append(table(header, [list(map(escape, row)) for row in rows], f"{name}.csv", "words4"))
    content = fold("Files of weights, engines and functions, with their hashes", "\n".join(parts))
    return section("With what", content, short=True)


def _distinct(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    rows = read(path) if path.exists() else []
    return list(dict.fromkeys(tuple(row[column] for column in columns) for row in rows))


def _this_run(folder: Path, settings: Mapping[str, Any]) -> str:
    latency = folder / "latency.csv"
    measured = next(iter(read(latency)), {}) if latency.exists() else {}
    images, sha256 = settings["images"]
    facts = {
        "device": settings["device"],
        "precision": settings["precision"],
        "images": f"{images}, sha256 {sha256[:16]}…",
        "noise σ": ", ".join(f"{sigma:g}" for sigma in settings["sigma"]),
        "certification samples n": str(settings["n"]),
        "error probability α": show_alpha(settings["alpha"]),
        **{name: measured.get(column) for name, column in _DRIVER.items()},
        **{name: measured.get(name) for name in ("commit", "date")},
        **{name: settings.get(name) for name in _VERSIONS},
    }
    items = "\n".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items() if value
    )
    return section("This run", f'<dl class="facts">\n{items}\n</dl>', short=True)
