"""An engine at every precision on every back end of this machine: speed by stage, and how far the features move."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fsfast.backends.cpu import installed
from fsfast.encoder import SmoothedEncoder
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.machine import resident_bytes
from fsfast.runtime.options import PrecisionError, choose_device
from fsfast.runtime.pipeline import STEPS

_SEED = 0
# A certification of fewer samples says little, one that takes longer nobody waits for.
_CERTIFICATION_LEAST, _CERTIFICATION_S = 20, 20.0


@dataclass(frozen=True)
class Measured:
    """One back end at one precision.

    Attributes:
        backend, precision: which.
        load_s: seconds of opening the engine, its self-test included where it was new.
        p20_ms, p50_ms, p80_ms: encoding one image.
        n0: its samples.
        steps_ms: step → milliseconds per sample on its thread.
        cosine: mean cosine of the features' tokens to those of float32, same noise.
    """

    backend: str
    precision: str
    load_s: float
    p20_ms: float
    p50_ms: float
    p80_ms: float
    n0: int
    steps_ms: dict[str, float]
    cosine: float

    @property
    def samples_per_s(self) -> float:
        """Noisy samples per second."""
        return self.n0 / self.p50_ms * 1e3


def compare(
    engine: str,
    backends: Sequence[str],
    precisions: Sequence[str],
    *,
    n0: int,
    runs: int,
    options: dict[str, object],
    skipped: Callable[[str, str, str], None] = lambda *_: None,
) -> Iterator[Measured]:
    """Measure one encoder after the other; the first one is the reference of the cosines.

    Args:
        engine: directory, or the name of a built-in one.
        backends, precisions: their names; every pair that can run here is measured, "float32" first.
        n0: samples per image.
        runs: counted runs of each, after one that warms up.
        options: of `SmoothedEncoder`: device, threads, micro_batch, graph_threads, stages.
        skipped: receives back end, precision and reason of every pair that cannot run.
    """
    reference = None
    for precision in precisions:
        for backend in backends:
            start = time.perf_counter()
            try:
                encoder = SmoothedEncoder(engine, backend=backend, precision=precision, **options)  # type: ignore[arg-type]
            except (BackendUnavailable, EngineError, PrecisionError) as error:
                skipped(backend, precision, str(error))
                continue
            with encoder:
                load_s = time.perf_counter() - start
                unit, wall, seconds = timed(encoder, picture(encoder), n0, runs)
            reference = unit if reference is None else reference
            p20, p50, p80 = (float(p) * 1e3 for p in np.percentile(wall, (20, 50, 80)))
            steps = {step: seconds.get(step, 0.0) / (runs * n0) * 1e3 for step in STEPS}
            cosine = float((unit.astype(np.float64) * reference).sum(-1).mean())
            yield Measured(backend, precision, load_s, p20, p50, p80, n0, steps, cosine)


def picture(encoder: SmoothedEncoder) -> np.ndarray:
    """Return a picture on the engine's grid, [H, W, 3] uint8: smooth, with edges, as photographs are."""
    grid = encoder.manifest.grid
    y, x = np.mgrid[0 : grid.height, 0 : grid.width] / max(grid.size)
    channels = [
        0.5 + 0.5 * np.sin(9 * x + 3 * y),
        0.5 + 0.5 * np.cos(7 * y * x + 1),
        ((4 * x + 3 * y) % 1 > 0.5) * 0.8,
    ]
    return np.round(255 * np.stack(channels, axis=-1)).astype(np.uint8)


def timed(
    encoder: SmoothedEncoder, image: np.ndarray, n0: int, runs: int
) -> tuple[np.ndarray, list[float], dict[str, float]]:
    """Return directions, the seconds of each run, and the seconds per step of all runs together.

    There are no steps where they overlap, on a GPU.
    """
    unit = encoder.encode(image, n0, seeds=[_SEED], progress=False).unit
    wall: list[float] = []
    seconds: dict[str, float] = {}
    for _ in range(runs):
        start = time.perf_counter()
        steps = seconds if encoder.times_steps else None
        encoder.encode(image, n0, seeds=[_SEED], progress=False, seconds=steps)
        wall.append(time.perf_counter() - start)
    return unit, wall, seconds


def recommend(measured: Sequence[Measured], cosine: float) -> Measured:
    """Return the fastest whose features keep this cosine to float32; float32 itself always does."""
    good = [m for m in measured if m.cosine >= cosine or m is measured[0]]
    return min(good, key=lambda m: m.p50_ms)


def pairs(
    device: str, backend: str, precision: str | None, precisions: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the back ends and precisions that a user's words mean; float32 comes first, as the reference.

    Args:
        device: as `SmoothedEncoder`.
        backend: a name, or "auto": all that there are for the device and open quickly.
        precision: one, or None: all.
        precisions: of the engine.
    """
    if choose_device(device) == "cpu":
        named = os.environ.get("FSFAST_BACKEND") if backend == "auto" else backend
        backends, chosen = [named] if named else list(installed()), list(precisions)
    else:
        from fsfast.backends.gpu import BACKENDS
        from fsfast.backends.torch import PRECISIONS

        # One that takes minutes to open has to be asked for.
        quick = [name for name in BACKENDS if name != "torch-compile"]
        backends = quick if backend == "auto" else [backend]
        chosen = list(dict.fromkeys((*PRECISIONS, *precisions)))
    chosen = chosen if precision is None else [precision]
    return backends, sorted(chosen, key=lambda name: name != "float32")


def measure_certification(encoder: SmoothedEncoder, samples_per_s: float) -> float | None:
    """Return the samples per second of certifying one image, pilot samples included; None if that takes too long.

    Args:
        encoder: an open encoder.
        samples_per_s: how fast it encodes.
    """
    from fsfast.certificates.evidence import PILOT

    n = min(200, int(_CERTIFICATION_S * samples_per_s) - PILOT)
    if n < _CERTIFICATION_LEAST:
        return None
    image = picture(encoder)
    start = time.perf_counter()
    encoder.certify(image, n, progress=False)
    return (PILOT + n) / (time.perf_counter() - start)


def record(
    encoder: SmoothedEncoder, latency: Sequence[dict[str, Any]], certification: float | None
) -> dict[str, Any]:
    """Return what `fsfast bench --json` says of the engine as it was opened.

    Args:
        encoder: that was measured.
        latency: by `measure`.
        certification: by `measure_certification`.
    """
    return {
        "engine": encoder.manifest.name,
        "engine_digest": encoder.engine_digest,
        "function_id": encoder.function_id,
        "profile": vars(encoder.profile),
        "threads": encoder.threads,
        "latency": list(latency),
        "certification_samples_per_s": certification,
        # Of this process, which may have measured others before.
        "memory_mb": resident_bytes() / 1e6,
    }


def measure(encoder: SmoothedEncoder, n0: int, runs: int) -> dict[str, Any]:
    """Return latency percentiles of encoding one image with n0 samples, and the time per step.

    Args:
        encoder: an open encoder.
        n0: samples per image.
        runs: counted runs, after one that warms up.
    """
    _, wall, seconds = timed(encoder, picture(encoder), n0, runs)
    p20, p50, p80 = np.percentile(wall, (20, 50, 80)) * 1e3
    return {
        "n0": n0,
        "p20_ms": float(p20),
        "p50_ms": float(p50),
        "p80_ms": float(p80),
        "samples_per_s": n0 / float(p50) * 1e3,
        "steps_ms": {step: seconds.get(step, 0.0) / (runs * n0) * 1e3 for step in STEPS},
    }
