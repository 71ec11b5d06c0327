"""A table that is printed row by row."""

from __future__ import annotations

import pytest

from fsfast.report.growing_table import Column, GrowingTable

NAMES = ["a.png", "写真.png", "IMG_20240131_193305_a_very_long_name_0001.png"]


@pytest.fixture
def columns():
    return [Column.of_texts("image", NAMES), Column("cos ≥ at ε=0.25", 5), Column("n", 3)]


def test_off_a_terminal_names_are_whole_and_headings_one_line(columns):
    table = GrowingTable(columns)
    header, line = table.header().splitlines()
    assert header.endswith("  cos ≥ at ε=0.25    n")
    assert [len(part) for part in line.split("  ")] == [len(NAMES[2]), 15, 3]
    assert table.row([NAMES[2], "0.1", "5"]) == f"{NAMES[2]}  {'0.1':>15}  {'5':>3}"


def test_on_a_terminal_columns_keep_their_widths(columns, monkeypatch):
    from rich.cells import cell_len

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    table = GrowingTable(columns)
    *headings, line = table.header().splitlines()
    assert [heading.split()[-1] for heading in headings] == ["n", "at", "ε=0.25"]
    rows = [table.row([name, "none", "123"]) for name in NAMES]
    assert {cell_len(row) for row in rows} == {len(line)}
    assert rows[2].startswith("IMG_202401")
    assert "…" in rows[2]
    assert "name_0001.png " in rows[2]


def test_numbers_are_never_cut(columns):
    assert GrowingTable(columns).row(["a.png", "none", "123456"]).endswith(" 123456")


def test_names_cannot_steer_the_terminal_or_break_a_row(columns):
    assert GrowingTable(columns).row(["a\x1b[2J\nb", "none", "1"]).startswith("a\\u001b[2J\\u000ab ")
