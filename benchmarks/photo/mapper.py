"""What a low-rank mapper is worth behind the photo engines' purifiers: `python -m benchmarks.photo.mapper DIR [DIR …]`.

DIR are folders of `python -m train photo-mapper`, which has measured it on training photographs that no mapper was
fitted to. Of each the rows without a mapper, a tenth of the way to the mean feature, and of the best mapper become
benchmarks/results/photo/mapper.csv, which docs/photo.md shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import read

_ROWS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo.mapper", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS / "photo")
    options = parser.parse_args(argv)
    try:
        rows = [row for run in options.runs for row in read(run / "mapper.csv")[:_ROWS]]
    except OSError as error:
        print(f"python -m benchmarks.photo.mapper: {error}", file=sys.stderr)
        return 2
    write_table(options.out / "mapper.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
