"""A table whose rows are shown as they come: the widths of its columns are chosen before the first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from fsfast.errors import printable

# Of a text on a terminal, where longer ones are cut in the middle.
_WIDEST = 32


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: its title; on a terminal it is folded.
        widest: cells of a terminal that the widest entry takes.
        number: whether entries stand to the right.
    """

    heading: str
    widest: int
    number: bool = True

    @classmethod
    def of_texts(cls, heading: str, texts: Iterable[str]) -> Column:
        """Return a column for these texts."""
        from rich.cells import cell_len

        return cls(heading, max((cell_len(_clean(text)) for text in texts), default=0), number=False)


class GrowingTable:
    """Lines of a table: first `header`, then `row` by row."""

    def __init__(self, columns: Sequence[Column]) -> None:
        folded = sys.stdout.isatty()
        self._columns = columns
        self._widths = []
        for column in columns:
            most = _WIDEST if folded and not column.number else column.widest
            words = column.heading.split() if folded else [column.heading]
            self._widths.append(max(min(column.widest, most), *map(len, words)))

    def header(self) -> str:
        """Return the headings, and the line below them."""
        folded = [wrap(c.heading, width) for c, width in zip(self._columns, self._widths, strict=True)]
        lines = [self._line(line) for line in zip_longest(*folded, fillvalue="")]
        return "\n".join([*lines, "  ".join("─" * width for width in self._widths)])

    def row(self, entries: Sequence[str]) -> str:
        """Return one line; a text that is wider than its column is cut in the middle, a number never."""
        shown = zip(map(_clean, entries), self._columns, self._widths, strict=True)
        return self._line([text if column.number else _fitted(text, width) for text, column, width in shown])

    def _line(self, entries: Sequence[str]) -> str:
        from rich.cells import cell_len

        cells = []
        for entry, column, width in zip(entries, self._columns, self._widths, strict=True):
            space = " " * (width - cell_len(entry))
            cells.append(space + entry if column.number else entry + space)
        return "  ".join(cells).rstrip()


def _clean(text: str) -> str:
    return printable(text, keep="")


def _fitted(text: str, width: int) -> str:
    from rich.cells import cell_len, chop_cells, set_cell_size

    if cell_len(text) <= width:
        return text
    end = chop_cells(text[::-1], width // 2)[0][::-1]
    return f"{set_cell_size(text, width - 1 - cell_len(end))}…{end}"
