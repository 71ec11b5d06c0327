"""Tables as text, and what a terminal and a page say in the same words."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from typing import Literal

from fsfast.errors import printable

RANDOM_WEIGHTS = (
    "This engine's networks have random weights: its features mean nothing, and its bounds are small.\n"
    "It shows the machinery."
)
# Classes of an engine that are named in a sentence.
_NAMED = 20


def some_names(names: Sequence[str]) -> str:
    """Return the names of classes in a sentence, of many the first ones and how many there are."""
    return (
        ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])}, … ({len(names)} in all)"
    )


def only_these_classes(names: Sequence[str]) -> str:
    """Return what to say beside the class of an image that may show none of an engine's classes."""
    return (
        f"This engine knows only the classes {some_names(names)}; of other pictures it names\n"
        "the nearest, which means nothing. The certificates hold for every picture."
    )


# Wider than any table that is not fitted to a terminal.
_UNBOUNDED = 1 << 20
# Of a column, on any terminal.
_NARROWEST = 8
# On a terminal longer words, such as names of files, are cut in the middle.
_LONG_WORD = re.compile(r"(\S{15})\S{3,}(\S{16})")


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Return aligned columns: text to the left, numbers to the right.

    On a terminal they fit its width: text is folded, numbers never. Elsewhere every row is one line, and whole.
    """
    # What only serves features never shows a table.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    cut = sys.stdout.isatty()
    width = max(shutil.get_terminal_size().columns, _NARROWEST * len(header)) if cut else _UNBOUNDED
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, heading in enumerate(header):
        cells = [row[i] for row in rows]
        numbers = cells if all(map(_number, cells)) else []
        narrowest = max(map(cell_len, [*heading.split(), *numbers]), default=0)
        justify: Literal["right", "left"] = "right" if numbers else "left"
        shown.add_column(Text(heading), justify=justify, overflow="fold", min_width=narrowest)
    shown.add_row(*(Rule(style="") for _ in header))
    for row in rows:
        shown.add_row(*(Text(_cell(cell, cut=cut)) for cell in row))
    page = StringIO()
    console = Console(file=page, width=width, color_system=None, force_jupyter=False)
    console.print(shown, crop=False)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def _cell(text: str, *, cut: bool) -> str:
    text = printable(text, keep="")
    return _LONG_WORD.sub(r"\1…\2", text) if cut else text


def _number(cell: str) -> bool:
    return cell in ("none", "—", "") or cell.replace(".", "").replace("-", "").replace(",", "").isdigit()
