"""What the photo engines do on photographs that they have not seen: `python -m benchmarks.photo.study --data DIR`.

DIR is a folder of `python -m train photo-data`. Parts: plug-in, plain, adaptive, certified (all by default). Each
writes rows to a table in benchmarks/results/photo/ as they are finished, and goes on where it was stopped; in the end
the tables become summary.csv, certificates.csv and attacked.csv, which docs/photo.md shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.harness import RESULTS
from benchmarks.photo import attacks, certified, plug_in, summary
from benchmarks.photo.pictures import Networks, Photographs
from fsfast.engine.engine import load_engine
from fsfast.errors import FsfastError

PARTS = ("plug-in", "plain", "adaptive", "certified")
# Photographs of each part where --images does not say another number; None: all.
_IMAGES = {"plug-in": None, "plain": None, "adaptive": 20, "certified": 30}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo.study", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--engine", action="append", help="name or folder; once for each σ (default: photo and photo-0.12)"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="once for each part (default: all)")
    parser.add_argument("--images", type=int, help="photographs of each part, at most")
    parser.add_argument("--bf16", action="store_true", help="compute plug-in numbers and attacks in bfloat16")
    parser.add_argument("--out", type=Path, default=RESULTS / "photo")
    options = parser.parse_args(argv)
    try:
        photographs = Photographs.of(options.data)
        engines = [load_engine(name) for name in options.engine or ("photo", "photo-0.12")]
        networks = [Networks(engine, options.bf16) for engine in engines]
        options.out.mkdir(parents=True, exist_ok=True)
        for part in options.part or PARTS:
            images = _IMAGES[part] or len(photographs.held_out)
            images = min(images, options.images or images)
            path = options.out / f"{part}.csv"
            if part == "plug-in":
                plug_in.measure(photographs, networks, path, images)
            elif part == "certified":
                certified.measure(photographs, engines, path, images)
            else:
                getattr(attacks, part)(photographs, networks, path, images)
        summary.write(options.out)
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m benchmarks.photo.study: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
