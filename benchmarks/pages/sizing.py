"""The tables from which an operator sizes machines: what processors compute, and what servers answered."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, number, read

# Of the numbers of samples that were measured those that are shown.
_SHOWN = ("1", "4", "16")
_ENCODED = re.compile(r"(?P<engine>\S+), n0=(?P<n0>\d+)")


def updated(text: str) -> str:
    """Return a document with the tables that it names made anew."""
    for name, render in (("computed", render_computed), ("answered", render_answered)):
        place = re.compile(rf"(<!-- sizing {name} -->\n).*?(<!-- end of sizing {name} -->)", re.DOTALL)
        text = place.sub(lambda m, render=render: m[1] + render() + m[2], text)
    return text


def render_computed() -> str:
    """Return images per second against processors and n0, of every machine and engine."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in _rows("*-cores/serving.csv", "*-cores/vit.csv"):
        encoded = _ENCODED.fullmatch(row["variant"]) if row["case"] == "encode" else None
        if encoded and encoded["n0"] in _SHOWN:
            place = (row["device"], encoded["engine"], encoded["n0"])
            found.setdefault(place, {})[row["threads"]] = row
    cells = [
        [
            *place,
            *(number(str(1e3 / float(by_threads[threads]["p50_ms"]))) for threads in ("1", "2")),
            *(number(by_threads["2"][name]) for name in ("p20_ms", "p50_ms", "p80_ms")),
        ]
        for place, by_threads in found.items()
    ]
    return _by_machine(
        ("engine", "n0", "images/s, one processor", "images/s, two", "ms, two (p20)", "median", "p80"), cells
    )


def render_answered() -> str:
    """Return what `fsfast serve` answered at the engine's n0, by machine, engine and clients."""
    cells = [
        [
            row["device"],
            row["engine"],
            row["clients"],
            *(number(row[name]) for name in ("requests_per_s", "p50_ms", "p95_ms", "memory_mb")),
        ]
        for row in _rows("load/*/loads.csv")
    ]
    return _by_machine(("engine", "clients", "images/s", "ms (median)", "ms (p95)", "MB"), cells)


def _by_machine(header: tuple[str, ...], cells: list[list[str]]) -> str:
    """Return a table for each machine, which stands in the first cell of a row."""
    machines = dict.fromkeys(row[0] for row in cells)
    return "\n".join(
        f"{name}:\n\n{markdown(header, [row[1:] for row in cells if row[0] == name])}" for name in machines
    )


def _rows(*patterns: str) -> Iterator[dict[str, str]]:
    for pattern in patterns:
        for path in sorted(RESULTS.glob(pattern)):
            yield from read(path)
