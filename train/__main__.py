"""`python -m train demo`: train the built-in engine's networks and measure them."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from fsfast.errors import FsfastError
from train.config import DEMO, quick
from train.loop import Place
from train.run import train

_LOGGER = logging.getLogger("fsfast.train")
_STUDIES = {"demo": DEMO}
# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m train", description=__doc__)
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
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = quick(_STUDIES[options.study]) if options.quick else _STUDIES[options.study]
    if options.seed is not None:
        config = replace(config, seed=options.seed)
    folder = options.out or Path("runs") / (options.study + ("-quick" if options.quick else ""))
    try:
        _prepare(folder, options.resume)
        if options.threads:
            torch.set_num_threads(options.threads)
        record = train(config, Place(folder), _device(options.device))
    except (FsfastError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _LOGGER.info("%s", (folder / "results.md").read_text(encoding="utf-8"))
    _LOGGER.info("training took %.0f s; results in %s", sum(record["seconds"].values()), folder)
    return 0


def _prepare(folder: Path, resume: bool) -> None:
    """Make the folder of the run, refusing to mix two runs, and ask the C library to keep freed memory."""
    if folder.exists() and any(folder.glob("*.checkpoint.pt")) and not resume:
        raise ValueError(
            f"wanted an empty --out, got a run in {folder}; continue it with --resume, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Returning every large tensor to the kernel costs a fifth of the time in page faults.
    if sys.platform == "linux" and hasattr(os, "confstr") and (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"wanted device {name}, got a machine without CUDA; use --device cpu")
    _LOGGER.info("training on %s", name)
    return torch.device(name)


if __name__ == "__main__":
    sys.exit(main())
