"""Run one part of the GPU study: `python -m benchmarks.gpu.device PART`; `make gpu` runs all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.device import encode, llava
from benchmarks.gpu.device.place import Place
from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import RESULTS
from fsfast.errors import FsfastError
from fsfast.report.text import table

PARTS: dict[str, Callable[..., Iterator[Any]]] = {
    "encode-adm256": partial(encode.techniques, name="adm256"),
    "encode-unet-light": partial(encode.techniques, name="unet-light"),
    "certify-adm256": partial(encode.certification, name="adm256"),
    "certify-unet-light": partial(encode.certification, name="unet-light"),
    "llava": llava.table_s8,
}
SKIPPED = 77
OPTIONAL = ("transformers",)
# What a rehearsal asks for: the same code, little work.
_REHEARSED: dict[str, dict[str, Any]] = {
    "encode": {"numbers": (1, 2), "compiled_n0": 2},
    "certify": {"n": 6, "micro_batch": 2},
    "llava": {"numbers": (1, 2)},
}


def main(argv: list[str] | None = None) -> int:
    """Measure one part and write its results file; exit code 77 when a library is missing, as test programs skip."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.device", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results/<gpu>)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small networks; wants --out")
    args = parser.parse_args(argv)
    if args.rehearse and args.out is None:
        parser.error("--rehearse wants --out: its numbers do not belong among results")
    try:
        place = Place.chosen(args.rehearse)
    except FsfastError as error:
        parser.error(str(error))
    less = _REHEARSED[args.part.split("-")[0]] if args.rehearse else {}
    target = (args.out or RESULTS / place.name) / f"{args.part}.csv"
    try:
        rows = _measured(PARTS[args.part](place, **less), place.circumstances(), target)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        print(f"python -m benchmarks.gpu.device: {args.part}: {error}", file=sys.stderr)
        return SKIPPED
    except FsfastError as error:
        print(f"python -m benchmarks.gpu.device: {args.part}: {error}", file=sys.stderr)
        return 1
    print(show(rows))
    print(f"→ {target}")
    return 0


def _measured(found: Iterator[Any], where: dict[str, str], target: Path) -> list[dict[str, Any]]:
    """Write the results file anew after every row: what was measured stays, whatever the next one meets."""
    rows: list[dict[str, Any]] = []
    for row in found:
        rows.append(vars(row))
        write_table(target, [{**r, **where} for r in rows])
    return rows


def show(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table for people."""
    return table([[_cell(value) for value in row.values()] for row in rows], list(rows[0]))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
