"""`python -m train demo | psm | photo | photo-data | photo-mapper`: the door to the commands."""

from __future__ import annotations

import logging
import sys

from export.stopping import run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments[:1] == ["psm"]:
        from train.psm_command import main as psm

        return psm(arguments[1:])
    if arguments[:1] == ["photo"]:
        from train.photos.run import main as photo

        return photo(arguments[1:])
    if arguments[:1] == ["photo-mapper"]:
        from train.photos.mapper_run import main as photo_mapper

        return photo_mapper(arguments[1:])
    if arguments[:1] == ["photo-data"]:
        from train.photos.command import main as photo_data

        return photo_data(arguments[1:])
    from train.demo_command import main as demo

    return demo(arguments)


if __name__ == "__main__":
    run("python -m train", main, "export", "train")
