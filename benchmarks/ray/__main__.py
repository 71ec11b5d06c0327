"""One worker and two of Ray, and a plan for many: `python -m benchmarks.ray`.

Writes scaling.csv into a folder of this machine below benchmarks/results/ray/; with --plan it measures nothing and says
what that file means for many machines. Measure on a machine with two processors at least that does nothing else; the
driver, Ray's own processes and the clients share it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.harness import RESULTS, machine, write_csv
from benchmarks.measuring.tables import read
from benchmarks.ray.plan import Site, loads, text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray", description=__doc__)
    parser.add_argument(
        "--engine", default="demo", help="directory of an engine, or a built-in one (default demo)"
    )
    parser.add_argument("--images", type=int, default=640, help="of each measurement (default 640)")
    parser.add_argument("--out", type=Path, default=RESULTS / "ray" / machine())
    parser.add_argument("--plan", action="store_true", help="plan from the file that stands there")
    for name in ("machines", "cores"):
        default = getattr(Site, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of the plan (default {default})")
    for name in ("network", "store"):
        default = getattr(Site, name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"bytes/s (default {default:g})")
    options = parser.parse_args(argv)
    if options.plan:
        _plan(options)
        return 0
    from benchmarks.ray.scaling import SECRET, scaling

    os.environ["FSFAST_SECRET"] = SECRET
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in scaling(options.engine, options.images, Path(folder)):
            rows.append(row)
            print(row, flush=True)
    print(write_csv("scaling", rows, options.out))
    return 0


def _plan(options: argparse.Namespace) -> None:
    site = Site(options.machines, options.cores, options.network, options.store)
    rows = [row for row in read(options.out / "scaling.csv") if row["case"] == "data"]
    slowest = min(rows, key=lambda row: float(row["images_per_s"]) / int(row["workers"]))
    seconds = int(slowest["workers"]) / float(slowest["images_per_s"])
    found = loads(seconds, 1e3 * float(slowest["read_kb"]), 1e3 * float(slowest["written_kb"]), site)
    print(text(found, site.machines * site.cores / seconds))


if __name__ == "__main__":
    sys.exit(main())
