"""Build engines with random weights and write what they cost: `python -m benchmarks.cpu.engines [--recipes NAME …]`.

Each is built by `python -m export` in a process of its own. Results stand in benchmarks/results/engines/recipes.csv,
and as a table in docs/engines.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.files import update_table
from benchmarks.measuring.harness import RESULTS, circumstances
from benchmarks.measuring.tables import markdown, measured_on, read
from export.options import PURIFIERS_FROM
from fsfast.engine.engine import load_engine
from fsfast.files import write_whole

CSV = RESULTS / "engines" / "recipes.csv"
DOCS = Path(__file__).parents[2] / "docs" / "engines.md"
MAPPER_BLOCKS = 3
# A recipe, with a purifier's preset and "mapper" where they are added.
NAMES = (
    "clip-b16",
    "clip-b16+unet-light+mapper",
    "clip-l14",
    "fare",
    "llava-1.5",
    "llava-1.5+adm256+mapper",
    "openflamingo",
    "tecoa",
)
_PLACE = re.compile(r"(<!-- engines -->\n).*?(<!-- end of engines -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        engine: its name.
        grid: side of the smoothing grid.
        features: L×D.
        disk_mb: size of the directory, MB of 10⁶ bytes.
        build_s: seconds from the start of the process to its end.
        cpu_s: processor seconds, which other work on the machine does not change much.
        peak_mb: the most memory that the process held, weights mapped from a file included.
        max_abs: the largest deviation of a graph's output from torch's, over stages and batches.
        unlike: 1 − the smallest cosine between the two, over stages, batches and rows; in the file, 0 is less than
            1e-9 (rows of before this column had cosines of nine digits).
    """

    engine: str
    grid: int
    features: str
    disk_mb: float
    build_s: float
    cpu_s: float
    peak_mb: float
    max_abs: float
    unlike: float


def command(name: str, out: Path) -> list[str]:
    """Return the command that builds an engine of NAMES.

    Raises:
        ValueError: something was added to a recipe that is neither a purifier nor a mapper.
    """
    recipe, *added = name.split("+")
    line = [sys.executable, "-m", "export", recipe, "--random-weights", "--out", str(out)]
    for part in added:
        if part not in PURIFIERS_FROM and part != "mapper":
            raise ValueError(f"wanted {', '.join(PURIFIERS_FROM)} or mapper after the recipe, got {part!r}")
        line += ["--mapper", str(MAPPER_BLOCKS)] if part == "mapper" else ["--purifier", part]
    # Parity at batches 1 and 3.
    return [*line, "--micro-batch", "1"]


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        cpu_s: processor seconds.
        peak_mb: the most memory that it held, MB of 10⁶ bytes.
    """

    seconds: float
    cpu_s: float
    peak_mb: float


def export_apart(line: Sequence[str]) -> Cost:
    """Run a command that makes an engine, with its lines on stderr.

    Raises:
        ValueError: it failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(line, stdout=sys.stderr)
    # Of this child alone, which getrusage cannot say.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ValueError(f"{' '.join(line[1:])} ended with exit code {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def build(name: str, folder: Path) -> Row:
    """Build an engine below `folder` and measure it.

    Raises:
        ValueError: the export failed.
    """
    out = folder / name
    cost = export_apart(command(name, out))
    manifest = load_engine(out).manifest
    parity = [row for stage in manifest.stages.values() for v in stage.values() for row in v.parity]
    return Row(
        name,
        manifest.grid.height,
        f"{manifest.tokens}×{manifest.dim}",
        sum(file.stat().st_size for file in out.iterdir()) / 1e6,
        cost.seconds,
        cost.cpu_s,
        cost.peak_mb,
        max(row["max_abs"] for row in parity),
        # The manifest has the cosine to sixteen digits; rounding may lead beyond 1.
        max(0.0, 1 - min(row["cosine"] for row in parity)),
    )


def write(rows: Sequence[Row], path: Path = CSV) -> None:
    """Write rows to the results file; those of other engines that stand there stay."""
    update_table(path, rows, ("engine",), circumstances(), digits=9)


def render(path: Path = CSV) -> str:
    """Return the results as a Markdown table with the circumstances beneath."""
    rows = read(path)
    header = (
        "engine",
        "grid",
        "features",
        "on disk",
        "build",
        "processor time",
        "peak memory",
        "max abs Δ",
        "1 − cosine",
    )
    cells = [
        (
            f"`{row['engine']}`",
            f"{row['grid']}²",
            row["features"],
            f"{float(row['disk_mb']):.0f} MB",
            f"{float(row['build_s']):.0f} s",
            f"{float(row['cpu_s']):.0f} s",
            f"{float(row['peak_mb']) / 1e3:.1f} GB",
            f"{float(row['max_abs']):.0e}",
            _unlike(float(row["unlike"])),
        )
        for row in rows
    ]
    return f"{markdown(header, cells)}\nRandom weights; measured on {measured_on(rows)}.\n"


def _unlike(value: float) -> str:
    return f"{value:.0e}" if value else "< 1e-9"


def updated(text: str, path: Path = CSV) -> str:
    """Return docs/engines.md with its table made anew."""
    return _PLACE.sub(lambda match: match[1] + render(path) + match[2], text)


def main(argv: list[str] | None = None) -> int:
    """Build the engines that are named, update the results file and docs/engines.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.engines", description=__doc__)
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=NAMES,
        metavar="NAME",
        help=f"such as {', '.join(NAMES)} (default: these)",
    )
    parser.add_argument(
        "--work", type=Path, help="folder for the engines, up to 7 GB (default: a temporary one)"
    )
    args = parser.parse_args(argv)
    try:
        for name in args.recipes:
            with tempfile.TemporaryDirectory(dir=args.work) as folder:
                row = build(name, Path(folder))
            write([row])
            print(row, flush=True)
    except ValueError as error:
        print(f"python -m benchmarks.cpu.engines: {error}", file=sys.stderr)
        return 2
    write_whole(DOCS, updated(DOCS.read_text(encoding="utf-8")).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
