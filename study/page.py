"""The page of `python -m study attack`: every attacked image, and what the encoders see in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from fsfast.certificates.wording import show_radius
from fsfast.report.markup import escape, picture, section, table
from fsfast.report.page import TEMPLATE
from study.pictures import read_png

# Images that are shown; the table has all.
_SHOWN = 24

SAYS = (
    "The certified radius is an ℓ₂ radius for a cosine of at least 0.5. A certificate covers every change up to it, "
    "and says nothing of larger ones: an ℓ∞ change of 16/255 is many times larger. Where the smoothed encoder resists "
    "one, that is an observation.",
    "An attack that fails shows that this attack failed. A stronger one (more steps, noises or starts) may succeed.",
)


def render(folder: Path, rows: Sequence[dict[str, str]], sigma: float) -> str:
    """Return the page as HTML.

    Args:
        folder: of the attacked images.
        rows: of the table, as attacks.csv has them.
        sigma: of the engine.
    """
    cards = "\n".join(_card(folder, row) for row in rows[:_SHOWN])
    parts = [
        section("Attacked images", f'<div class="cards">\n{cards}\n</div>'),
        section("All attacks", _table(rows)),
        section(
            "What this says",
            "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in SAYS) + "</ul>",
            short=True,
        ),
    ]
    hits = sum(_hit(row["plain_class"], row) for row in rows)
    held = sum(_hit(row["smoothed_class"], row) for row in rows)
    lead = (
        f"{len(rows)} attacks: the encoder alone sees the target in {hits}, the smoothed one (σ = {sigma:g}) in "
        f"{held}."
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Attacks on an engine", lead=escape(lead), notes="", sections="\n".join(parts)
    )


def _hit(seen: str, row: dict[str, str]) -> bool:
    return bool(seen) and seen == row["target_class"] != row["clean_class"]


def _card(folder: Path, row: dict[str, str]) -> str:
    pixels = read_png(folder / row["file"])
    shown = picture(pixels, f"{row['image']} under {row['attack']}", f"ε {row['eps'] or '—'}, ℓ₂ {row['l2']}")
    seen = "".join(
        f"{label}: {_verdict(row[column], row)}<br />"
        for label, column in (
            ("clean", "clean_class"),
            ("attacked, plain", "plain_class"),
            ("attacked, smoothed", "smoothed_class"),
        )
        if row[column]
    )
    return (
        f'<article class="card"><h3>{escape(row["image"])} <small>{escape(row["attack"])}</small></h3>\n'
        f'<div class="pictures">{shown}</div>\n'
        f'<p class="verdicts">{seen}cosine to clean: plain {row["plain_to_clean"]}, smoothed '
        f"{row['smoothed_to_clean']}</p></article>"
    )


def _verdict(seen: str, row: dict[str, str]) -> str:
    kind = "wrong" if _hit(seen, row) else "right" if seen == row["clean_class"] else ""
    return f'<b class="{kind}">{escape(seen)}</b>' if kind else f"<b>{escape(seen)}</b>"


def _table(rows: Sequence[dict[str, str]]) -> str:
    header = [
        *("image", "attack", "ε", "target", "clean", "attacked,<br />plain", "attacked,<br />smoothed"),
        *("cosine to clean:<br />plain", "<br />smoothed", "ℓ₂", "certified<br />radius"),
    ]
    cells = [
        [
            *(escape(row[name]) for name in ("image", "attack", "eps")),
            escape(row["target_class"] or row["target"]),
            *(_verdict(row[name], row) for name in ("clean_class", "plain_class", "smoothed_class")),
            *(escape(row[name]) for name in ("plain_to_clean", "smoothed_to_clean", "l2")),
            show_radius(float(row["certified_radius"])),
        ]
        for row in rows
    ]
    return table(
        header, cells, "Cosines of features of all tokens; ℓ₂ sizes with pixels in [0, 1].", "words4"
    )
