"""Tables as text, and what a terminal and a page say in the same words."""

from __future__ import annotations

from collections.abc import Sequence

RANDOM_WEIGHTS = (
    "This engine's networks have random weights: its features mean nothing, and its bounds are small.\n"
    "It shows the machinery."
)
# Classes of an engine that are named in a sentence.
_NAMED = 20


def only_these_classes(names: Sequence[str]) -> str:
    """Return what to say beside the class of an image that may show none of an engine's classes."""
    shown = (
        ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])}, … ({len(names)} in all)"
    )
    return (
        f"This engine knows only the classes {shown}; of other pictures it names\n"
        "the nearest, which means nothing. The certificates hold for every picture."
    )


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Return aligned columns: text to the left, numbers to the right."""
    everything = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    right = [all(_number(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in everything
    ]
    lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(lines)


def _number(cell: str) -> bool:
    return cell in ("none", "—", "") or cell.replace(".", "").replace("-", "").replace(",", "").isdigit()
