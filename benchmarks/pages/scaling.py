"""The table about one worker of Ray and two."""

from __future__ import annotations

import re

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, number, read

_PLACE = re.compile(r"(<!-- scaling in (\S+) -->\n).*?(<!-- end of scaling -->)", re.DOTALL)
_CASES = {"alone": "without Ray", "data": "Ray Data", "serve": "Ray Serve"}
_NUMBERS = ("read_ms", "compute_ms", "write_ms", "read_kb", "written_kb", "p50_ms", "p95_ms", "memory_mb")


def updated(text: str) -> str:
    """Return a document with its table made anew from the folder that it names."""
    return _PLACE.sub(lambda m: m[1] + _rendered(m[2]) + m[3], text)


def _rendered(folder: str) -> str:
    rows = read(RESULTS / "ray" / folder / "scaling.csv")
    cells = [
        [
            _CASES[r["case"]],
            r["workers"],
            number(r["images_per_s"]),
            f"{float(r['speed_up']):.2f}",
            *(number(r[name]) if float(r[name]) else "" for name in _NUMBERS),
        ]
        for r in rows
    ]
    header = (
        *("engine demo by", "workers", "images/s", "× one worker", "ms: read", "compute", "write"),
        *("kB: read", "written", "ms (median)", "ms (p95)", "MB"),
    )
    return f"{markdown(header, cells)}\n{folder}, {rows[0]['date']}: Ray {rows[0]['ray']}.\n"
