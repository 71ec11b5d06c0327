"""All studies of the certificates, one after the other: `python -m benchmarks.certified [--quick]`.

Coverage of the confidence bounds, tightness, what is certified on the built-in engine, attacks on it, and the
picture of docs/certificates.md. On two cores it takes half an hour, with --quick (few runs, another folder) a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from export.stopping import exit_without

try:
    from benchmarks.certified import coverage, figures, soundness, tightness
    from benchmarks.certified import study as certified
    from benchmarks.certified.coverage import RESULTS
except ImportError as error:
    exit_without("python -m benchmarks.certified", error, "dev")

# What to run, the file or folder below the results that it writes, and how to make it quick.
STUDIES: dict[str, tuple[Callable[[list[str]], int], str, list[str]]] = {
    "coverage": (coverage.main, "coverage.csv", ["--runs", "50"]),
    "tightness": (tightness.main, "", ["--runs", "2"]),
    "certified": (
        certified.main,
        "",
        ["--images", "2", "--n", "50", "--more-images", "1", "--more-n", "100"],
    ),
    "soundness": (soundness.main, "soundness.csv", ["--images", "1", "--n", "50", "--steps", "2"]),
}


def main(argv: list[str] | None = None) -> int:
    """Run the studies; returns 1 where one of them found a bound that does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certified", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that everything works")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results (default: benchmarks/results/certificates, with --quick build/certificates)",
    )
    args = parser.parse_args(argv)
    folder = args.out or (Path("build") / "certificates" if args.quick else RESULTS)
    failed = []
    for name, (study, file, quick) in STUDIES.items():
        print(f"{name}:", flush=True)
        if study(["--out", str(folder / file), *(quick if args.quick else [])]) != 0:
            failed.append(name)
    picture = figures.FIGURE if folder == RESULTS else folder / figures.FIGURE.name
    figures.draw(folder, picture)
    print(f"→ {folder}, {picture}; python -m benchmarks.pages.readme copies the numbers into the documents")
    if failed:
        print(f"a bound did not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
