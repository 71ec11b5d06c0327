"""What several commands share: opening the engine, tables, errors of single inputs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fsfast.errors import FsfastError
from fsfast.images import GridImage, to_grid_image

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder

RANDOM_WEIGHTS = (
    "This engine's networks have random weights: its features mean nothing. They show the machinery."
)


def engine_arguments(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Add the engine and how to run it."""
    if positional:
        parser.add_argument(
            "engine", metavar="ENGINE", help='directory of an engine, or "demo" for the built-in one'
        )
    parser.add_argument("--backend", default="auto", help="what runs the networks (default: auto)")
    parser.add_argument("--precision", help="one of the engine's precisions (default: its first)")
    parser.add_argument(
        "--threads", type=int, help="processors to use (default: all); never changes the result"
    )
    parser.add_argument("--micro-batch", type=int, help="rows per run of a network (default: 1)")


def open_encoder(args: argparse.Namespace, engine: str | None = None) -> SmoothedEncoder:
    """Open the engine that the arguments name."""
    from fsfast.encoder import SmoothedEncoder

    return SmoothedEncoder(
        args.engine if engine is None else engine,
        backend=args.backend,
        precision=args.precision,
        threads=args.threads,
        micro_batch=args.micro_batch,
        secret=os.environ.get("FSFAST_SECRET") or None,
    )


def parse_seed(text: str) -> int:
    """Read a seed, decimal or 0x…; for argparse."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a number like 7 or 0x1f, got {text!r}") from None


def readable(paths: Sequence[str], encoder: SmoothedEncoder, command: str) -> Iterator[GridImage | None]:
    """Yield every image on the engine's grid, or None for one that failed, after naming it on stderr."""
    for path in paths:
        try:
            yield to_grid_image(path, encoder.manifest.grid)
        except FsfastError as error:
            complain(command, path, error)
            yield None


def complain(command: str, path: str, error: Exception) -> None:
    """Name an input that failed."""
    text = str(error) if path in str(error) else f"{path}: {error}"
    print(f"fsfast {command}: {text}", file=sys.stderr)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Return aligned columns: text to the left, numbers to the right."""
    everything = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    right = [all(_number(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in everything
    ]
    lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(lines)


def _number(cell: str) -> bool:
    return cell in ("none", "—", "") or cell.replace(".", "").replace("-", "").replace(",", "").isdigit()


def show_bound(bound: float | None) -> str:
    """Return a bound for a table, rounded down: three digits, or "none"."""
    return "none" if bound is None else f"{int(bound * 1000) / 1000:.3f}"
