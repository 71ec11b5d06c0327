"""`python -m train demo`: train the built-in engine's networks and measure them.

`python -m train psm --help` is another command: purifier and mapper for a published encoder.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from train.config import DEMO, quick
from train.loop import Place
from train.place import choose_device, prepare, set_threads
from train.run import train

_LOGGER = logging.getLogger("fsfast.train")
_STUDIES = {"demo": DEMO}


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument("study", choices=sorted(_STUDIES))
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/STUDY)")
    parser.add_argument("--seed", type=int, help="of data, weights and noise (default: the study's, 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, in under a minute")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out where it was stopped"
    )
    options = parser.parse_args(arguments)
    config = quick(_STUDIES[options.study]) if options.quick else _STUDIES[options.study]
    if options.seed is not None:
        config = replace(config, seed=options.seed)
    folder = options.out or Path("runs") / (options.study + ("-quick" if options.quick else ""))
    try:
        set_threads(options.threads)
        device = choose_device(options.device)
        prepare(folder, options.resume)
        record = train(config, Place(folder), device)
    except (FsfastError, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _LOGGER.info("%s", (folder / "results.md").read_text(encoding="utf-8"))
    _LOGGER.info("training took %.0f s; results in %s", sum(record["seconds"].values()), folder)
    return 0
