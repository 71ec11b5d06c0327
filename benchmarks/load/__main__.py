"""Load and hostile clients against `fsfast serve` on loopback: `python -m benchmarks.load`, or `make load`.

Writes loads.csv, endurance.csv and faults.csv into a folder of this machine below benchmarks/results/load/. Measure on
a machine that does nothing else; clients and server share it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load.studies import faults, loads, long_run, overload, restart
from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import RESULTS, circumstances, machine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the server did something wrong, which is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--engine", default="demo", help='directory of an engine, or "demo" (default)')
    parser.add_argument("--requests", type=int, default=2000, help="of each number of clients (default 2000)")
    parser.add_argument("--long", type=int, default=20_000, help="requests of the long run (default 20000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at twice the capacity (default 30)")
    parser.add_argument("--out", type=Path, default=RESULTS / "load" / machine())
    options = parser.parse_args(argv)
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    engine, requests = options.engine, options.requests
    _write(options.out / "loads.csv", await loads(engine, requests))
    endured = [
        await overload(engine, requests, options.seconds),
        await long_run(engine, options.long),
        await restart(engine, requests),
    ]
    _write(options.out / "endurance.csv", endured)
    met = await faults()
    _write(options.out / "faults.csv", met)
    wrong = [f"{each.case}: {each.wrong} wrong answers" for each in endured if each.wrong]
    wrong += [f"{each.name}: wanted {each.wanted}, got {each.got}" for each in met if not each.right]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _write(path: Path, rows: Sequence[Any]) -> None:
    where = circumstances()
    write_table(path, [{**asdict(row), **where} for row in rows])
    print(path)


if __name__ == "__main__":
    sys.exit(main())
