"""Load and hostile clients against `fsfast serve` on loopback: `python -m benchmarks.load`, or `make load`.

Writes loads.csv, overload.csv, endurance.csv and faults.csv into a folder of this machine below
benchmarks/results/load/. Measure on a machine that does nothing else; clients and server share it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load.studies import faults, loads, long_run, overload, restart
from benchmarks.measuring import built
from benchmarks.measuring.harness import RESULTS, machine, write_csv

_VIT = "vit-b16-random"
ENGINES = ("demo", "photo", _VIT)
PARTS = ("loads", "overload", "endurance", "faults")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the server did something wrong, which is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="tables to make (default: all)"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(ENGINES),
        help="of loads.csv; the other tables are of demo",
    )
    parser.add_argument("--requests", type=int, default=2000, help="of each number of clients (default 2000)")
    parser.add_argument("--long", type=int, default=20_000, help="requests of the long run (default 20000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at twice the capacity (default 30)")
    parser.add_argument("--out", type=Path, default=RESULTS / "load" / machine())
    options = parser.parse_args(argv)
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    requests, wrong = options.requests, []
    if "loads" in options.parts:
        found = [load for name in options.engines for load in await loads(name, _opened(name), requests)]
        print(write_csv("loads", found, options.out))
    if "overload" in options.parts:
        over = await overload("demo", requests, options.seconds)
        print(write_csv("overload", [over], options.out))
        wrong += [f"twice the capacity: {over.wrong} wrong answers"] if over.wrong else []
    if "endurance" in options.parts:
        endured = [await long_run("demo", options.long), await restart("demo", requests)]
        print(write_csv("endurance", endured, options.out))
        wrong += [f"{each.case}: {each.wrong} wrong answers" for each in endured if each.wrong]
    if "faults" in options.parts:
        met = await faults()
        print(write_csv("faults", met, options.out))
        wrong += [f"{each.name}: wanted {each.wanted}, got {each.got}" for each in met if not each.right]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _opened(name: str) -> str:
    return built.vit_float32() if name == _VIT else name


if __name__ == "__main__":
    sys.exit(main())
