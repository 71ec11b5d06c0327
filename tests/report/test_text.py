"""Tables fit a terminal; elsewhere every row is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.cells import cell_len

from fsfast.report.text import table

HEADER = ("image", "n", "cos ≥ at ε=0.125", "radius for cos ≥ 0.5")
LONG = "n" * 249 + ".png"
ROWS = [
    ("cat.jpg", "1000", "0.812", "none"),
    (LONG, "100000", "0.812", "1.250"),
    ("犬の写真.png", "1000", "none", "0.1"),
    ("two\nlines\x1b[31m.png", "1", "—", ""),
]


@pytest.fixture
def terminal(monkeypatch):
    """Show tables on a terminal of so many columns."""

    def resize(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))

    return resize


def test_elsewhere_rows_are_whole_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    heading, rule, *rows = table(ROWS, HEADER).splitlines()
    assert heading.split("  ")[0] == "image"
    assert set(rule) == {"─", " "}
    assert [row.split()[0] for row in rows] == [
        "cat.jpg",
        LONG,
        "犬の写真.png",
        "two\\u000alines\\u001b[31m.png",
    ]
    assert rows[1].split()[1:] == ["100000", "0.812", "1.250"]
    # Wide characters take two columns.
    assert cell_len(rows[0]) == cell_len(rows[1])


def test_a_table_as_the_documents_print_it():
    assert table([("a", "1.50"), ("bcd", "none")], ("name", "ms per image")) == (
        "name  ms per image\n────  ────────────\na             1.50\nbcd           none"
    )


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_on_a_terminal_lines_fit_and_numbers_stay_whole(terminal, columns):
    terminal(columns)
    text = table(ROWS, HEADER)
    assert max(map(cell_len, text.splitlines())) <= columns
    for number in ("1000", "100000", "0.812", "1.250"):
        assert number in text.split()
    assert "…" in text
    assert "\x1b" not in text
    # A name of any length takes a few lines.
    assert len(text.splitlines()) < 20


def test_a_terminal_that_is_too_narrow_gets_whole_numbers(terminal):
    terminal(1)
    assert "100000" in table(ROWS, HEADER).split()


def test_no_rows():
    assert table([], ("a", "b")).splitlines()[0] == "a  b"


def test_who_shows_no_table_does_not_load_its_library():
    code = "import sys, fsfast, fsfast.encoder, fsfast.cli; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
