"""Measure a call, say where it ran, write rows to CSV."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measuring.files import write_table
from fsfast.machine import available_threads, processor, vectors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Timing:
    """Percentiles of the seconds that a call takes."""

    p20: float
    p50: float
    p80: float


@dataclass(frozen=True)
class Row:
    """One line of a results file.

    Attributes:
        case: what was measured: the operation, or the study.
        variant: ours or which baseline, with its parameters.
        threads: processors that it may use.
        p20_ms, p50_ms, p80_ms: percentiles of one call.
        rate: amount per second at the median.
        unit: of the rate, e.g. "G samples/s".
        share: rate relative to `of`, or empty.
        of: what the share is relative to.
        memory_mb: the most memory that the process held, MB of 10⁶ bytes.
        cosine: mean cosine of the features' tokens to those of float32, same noise.
        disk_mb: size of the files.
        radius: mean certified radius for cosine ≥ 0.5, [0,1] units.
    """

    case: str
    variant: str
    threads: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    rate: float
    unit: str
    share: float | None = None
    of: str = ""
    memory_mb: float | None = None
    cosine: float | None = None
    disk_mb: float | None = None
    radius: float | None = None


def measure(call: Callable[[], object], *, seconds: float = 1.0, runs: int = 9) -> Timing:
    """Time a call: at least `runs` runs and `seconds` in all, after one run that warms up."""
    call()
    times = []
    start = time.perf_counter()
    while len(times) < runs or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    p20, p50, p80 = np.percentile(times, (20, 50, 80))
    return Timing(float(p20), float(p50), float(p80))


def measure_together(calls: Mapping[str, Callable[[], object]], *, runs: int = 9) -> dict[str, Timing]:
    """Time several calls in turn, so that a change of the machine's speed meets all of them alike.

    Args:
        calls: name → call; each runs once to warm up.
        runs: rounds.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - before)
    return {name: Timing(*map(float, np.percentile(t, (20, 50, 80)))) for name, t in times.items()}


def measure_gpu(call: Callable[[], object], *, runs: int = 50) -> Timing:
    """Time what a call does on the GPU, from cold second-level caches, without its launches on the host.

    The call is captured in a CUDA graph. Before every replay a buffer larger than the caches is written. Without a GPU,
    where only rehearsals come, it is called once.
    """
    import torch

    if not torch.cuda.is_available():
        return measure(call, seconds=0, runs=1)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    others = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for start, end in events:
        others.zero_()
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    times = [start.elapsed_time(end) / 1e3 for start, end in events]
    return Timing(*map(float, np.percentile(times, (20, 50, 80))))


def row(
    case: str, variant: str, threads: int, timing: Timing, amount: float, unit: str, **more: object
) -> Row:
    """Make a row; `amount` per call is in the unit's numerator (1e9 samples for "G samples/s" is 1.0)."""
    milliseconds = (timing.p20 * 1e3, timing.p50 * 1e3, timing.p80 * 1e3)
    return Row(case, variant, threads, *milliseconds, amount / timing.p50, unit, **more)  # type: ignore[arg-type]


def machine() -> str:
    """Return a folder name for this machine: the processor, its vector extensions and the number of usable cores.

    "masked" says that the processor has more, which tests/processors/cpu_mask.c hides.
    """
    name = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", processor().lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    masked = "-masked" if os.environ.get("FSFAST_CPU_MASK") else ""
    return f"{slug}-{vectors()}{masked}-{available_threads()}-cores"


def gpu() -> str:
    """Return a folder name for the GPU."""
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def driver() -> dict[str, str]:
    """Return the GPU's driver, clocks and power limit, as nvidia-smi says them now."""
    fields = ("driver_version", "clocks.sm", "clocks.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(fields, "unknown")
    return dict(zip(fields, (part.strip() for part in line.split(",")), strict=False))


def commit() -> str:
    """Return the commit that is measured; FSFAST_COMMIT says it where there is no git."""
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return found or os.environ.get("FSFAST_COMMIT", "unknown")


def circumstances(device: str | None = None) -> dict[str, str]:
    """Return commit, date, device (None: this machine) and versions, which stand in every line of a results file."""
    found = {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "device": device or machine(),
        "python": platform.python_version(),
    }
    for package in ("numpy", "onnxruntime", "openvino", "torch", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def write_csv(
    name: str, rows: Sequence[DataclassInstance], folder: Path | None = None, device: str | None = None
) -> Path:
    """Write a results file for this machine or `device`, whole or not at all, and return its path."""
    target = (RESULTS / (device or machine()) if folder is None else folder) / f"{name}.csv"
    where = circumstances(device) | ({} if device is None else driver())
    write_table(target, [{**{k: _written(k, v) for k, v in asdict(item).items()}, **where} for item in rows])
    return target


def _written(name: str, value: object) -> object:
    if not isinstance(value, float):
        return value
    # Cosines differ in their last digits only.
    return f"{value:.7f}" if name == "cosine" else f"{value:.5g}"


def show(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people."""
    from fsfast.report.text import table

    header = ("case", "variant", "threads", "ms", "p20", "p80", "rate", "unit", "share", "of", "MB", "cosine")
    cells = [
        (
            r.case,
            r.variant,
            str(r.threads),
            f"{r.p50_ms:.3f}",
            f"{r.p20_ms:.3f}",
            f"{r.p80_ms:.3f}",
            f"{r.rate:.4g}",
            r.unit,
            "" if r.share is None else f"{r.share:.2f}",
            r.of,
            "" if r.memory_mb is None else f"{r.memory_mb:.0f}",
            "" if r.cosine is None else f"{r.cosine:.6f}",
        )
        for r in rows
    ]
    return table(cells, header)
