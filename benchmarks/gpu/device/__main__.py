"""Run one part of the GPU study: `python -m benchmarks.gpu.device PART`; `make gpu` runs those that matter most."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import bits, encode, forward, llava, served, smoke
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import NAME, ErrorRow, Table, append_row, guarded
from benchmarks.measuring.files import write_table
from fsfast.errors import FsfastError

PARTS: dict[str, Callable[..., Iterator[Any]]] = {
    "smoke": smoke.smoke,
    "networks-4": partial(forward.forward, name="adm256", micro_batch=4, profiled=True),
    "networks-16": partial(forward.forward, name="adm256", micro_batch=16),
    "digests": partial(bits.digests, name="adm256"),
    "encode-adm256": partial(encode.techniques, name="adm256"),
    "encode-unet-light": partial(encode.techniques, name="unet-light"),
    "certify-adm256": partial(encode.certification, name="adm256"),
    "certify-unet-light": partial(encode.certification, name="unet-light"),
    "served-kernels": served.served,
    "cudnn": partial(forward.cudnn_benchmark, name="adm256"),
    "compiled-adm256": partial(encode.compiled, name="adm256"),
    "llava": llava.table_s8,
}
SKIPPED = 77
# Part → a package that only it needs.
_NEEDS = {"llava": "transformers"}
# What a rehearsal asks for: the same code, little work.
_REHEARSED: dict[str, dict[str, Any]] = {
    "smoke": {"n": 20},
    "networks-4": {"micro_batch": 2},
    "networks-16": {"micro_batch": 3},
    "digests": {"sizes": (2, 3)},
    "encode": {"numbers": (1, 2)},
    "certify": {"n": 6, "micro_batch": 2},
    "served": {
        "sizes": (4,),
        "sides": (8, 12),
        "tokens": (2, 20),
        "norms": ((1, 32, 32, 4, 4, torch.bfloat16),),
    },
    "cudnn": {"micro_batch": 2},
    "compiled": {"n0": 2},
    "llava": {"numbers": (1, 2)},
}


def main(argv: list[str] | None = None) -> int:
    """Measure one part and append its rows; exit code 1 where a row is an error, 77 when a library is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.device", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small networks")
    args = parser.parse_args(argv)
    try:
        place = Place.chosen(args.rehearse)
    except FsfastError as error:
        parser.error(str(error))
    try:
        import_module(_NEEDS.get(args.part, "torch"))
    except ModuleNotFoundError as error:
        print(f"python -m benchmarks.gpu.device: {args.part}: {error}", file=sys.stderr)
        return SKIPPED
    less = _REHEARSED.get(args.part, _REHEARSED.get(args.part.split("-")[0], {})) if args.rehearse else {}
    rows = guarded(args.part, partial(PARTS[args.part], place, **less))
    return int(record(args.part, rows, place.circumstances(), args.out) > 0)


def record(part: str, found: Iterator[Any], where: dict[str, str], folder: Path) -> int:
    """Write and print rows one by one, as they come; return how many are errors."""
    failed = 0
    for row in found:
        if isinstance(row, Table):
            write_table(folder / f"{row.name}.csv", [{**vars(line), **where} for line in row.rows])
            continue
        failed += isinstance(row, ErrorRow)
        append_row(folder / NAME, {"part": part, **vars(row), **where})
        print(
            f"{part}:",
            ", ".join(f"{k} {_cell(v)}" for k, v in vars(row).items() if v is not None),
            flush=True,
        )
    return failed


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
