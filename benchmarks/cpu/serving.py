"""The runtime around the networks: latency against n0, certification, cold start."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import fsfast
from benchmarks.measuring.harness import Row, Timing, measure, measure_together, row
from fsfast.machine import available_threads
from fsfast.runtime.pipeline import STEPS

N0 = (1, 2, 4, 8, 16)
# The same back end on every machine; the group `cpu` compares back ends.
DEFAULTS = {"backend": "onnxruntime"}


def picture(encoder: fsfast.SmoothedEncoder) -> np.ndarray:
    """Return a picture on the engine's grid, [H, W, 3] uint8."""
    grid = encoder.manifest.grid
    return np.random.default_rng(0).integers(0, 256, (*grid.size, 3), dtype=np.uint8)


def latency(
    engine: str = "demo",
    numbers: tuple[int, ...] = N0,
    runs: int = 41,
    threads: Iterable[int] = (),
    label: str = "",
    **options: str,
) -> Iterator[Row]:
    """Encode one image with n0 samples, for every n0 and for one and all threads.

    Args:
        engine: directory or name.
        numbers: values of n0.
        runs: rounds.
        threads: numbers of threads; empty: one and all.
        label: in place of the engine's name.
        options: of SmoothedEncoder, where they are not DEFAULTS.
    """
    with contextlib.ExitStack() as stack:
        encoders = {
            count: stack.enter_context(
                fsfast.SmoothedEncoder(engine, threads=count, **{**DEFAULTS, **options})
            )  # type: ignore[arg-type]
            for count in sorted(set(threads) or {1, available_threads()})
        }
        for n0 in numbers:
            calls = {str(t): partial(e.encode, picture(e), n0) for t, e in encoders.items()}
            for count, timing in measure_together(calls, runs=runs).items():
                yield row("encode", f"{label or engine}, n0={n0}", int(count), timing, n0, "samples/s")


def steps(
    engine: str = "demo", n0: int = 16, runs: int = 15, label: str = "", **options: str
) -> Iterator[Row]:
    """Where the time of one sample goes, on one thread; the share is of the sum."""
    with fsfast.SmoothedEncoder(engine, threads=1, **{**DEFAULTS, **options}) as encoder:  # type: ignore[arg-type]
        image = picture(encoder)
        encoder.encode(image, n0)
        times = []
        for _ in range(runs):
            seconds: dict[str, float] = {}
            encoder.encode(image, n0, seconds=seconds)
            times.append([seconds[step] / n0 for step in STEPS])
    percentiles = np.percentile(np.array(times), (20, 50, 80), axis=0)
    total = percentiles[1].sum()
    for i, step in enumerate(STEPS):
        timing = Timing(*(float(p[i]) for p in percentiles))
        if timing.p50 > 0:
            share = {"share": timing.p50 / total, "of": "the sum of the steps"}
            yield row("step", f"{label or engine}, {step}", 1, timing, 1, "samples/s", **share)


def certification(engine: str = "demo", n: int = 500) -> Iterator[Row]:
    """Certify one image with n samples."""
    threads = available_threads()
    with fsfast.SmoothedEncoder(engine, threads=threads, **DEFAULTS) as encoder:  # type: ignore[arg-type]
        image = picture(encoder)
        timing = measure(lambda: encoder.certify(image, n), runs=5)
    yield row("certify", f"{engine}, n={n}", threads, timing, n, "samples/s")


def cold_start(engine: str = "demo") -> Iterator[Row]:
    """Start Python, import fsfast, load an engine, encode one photograph; the engine's self-test is cached."""
    photograph = Path(fsfast.__file__).parent / "assets" / "cat.jpg"
    code = f"import fsfast; fsfast.SmoothedEncoder({engine!r}).encode({str(photograph)!r})"
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": "", "FSFAST_CACHE": folder, "FSFAST_BACKEND": DEFAULTS["backend"]}
        timing = measure(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))
    yield row(
        "cold start", f"{engine}: process start to first feature", available_threads(), timing, 1, "starts/s"
    )
