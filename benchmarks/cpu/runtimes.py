"""Full-size features on a CPU: one row per technique, certification, cold start, size on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.measuring import built
from benchmarks.measuring.able import able, fastest_pair
from benchmarks.measuring.harness import Row, Timing, row
from benchmarks.measuring.workers import Outcome, race
from fsfast.engine.engine import load_engine
from fsfast.machine import available_threads

TORCH = (
    "torch: loop",
    "torch: loop, medium",
    "torch: batched",
    "torch: batched, medium",
    "torch: batched, bf16",
    "torch: batched, medium, compiled",
    "torch: batched, bf16, compiled",
)
BY_HAND = (
    "onnxruntime by hand: float32",
    "onnxruntime by hand: int8",
    "openvino by hand: float32",
    "openvino by hand: bfloat16",
    "openvino by hand: int8",
    "openvino by hand: int8+bfloat16",
)
FSFAST = (
    "fsfast: onnxruntime, float32",
    "fsfast: onnxruntime, int8",
    "fsfast: openvino, float32",
    "fsfast: openvino, bfloat16",
    "fsfast: openvino, int8",
    "fsfast: openvino, int8+bfloat16",
    "fsfast: openvino, int8+bfloat16, M=2",
)
# What the others are compared with: in speed, and in features by the family that draws the same noise.
BASELINE = "torch: loop, medium"
_N0 = 4


def family(name: str) -> str:
    """Return what decides a technique's noise."""
    return "by hand" if " by hand" in name else name.partition(":")[0]


def rows_of(case: str, outcomes: Mapping[str, Outcome], n0: int) -> Iterator[Row]:
    """Return a row per technique; cosines are to the first of each family, which computes in float32."""
    references: dict[str, np.ndarray] = {}
    for name, outcome in outcomes.items():
        reference = references.setdefault(family(name), outcome.features)
        yield row(
            case,
            name,
            available_threads(),
            outcome.timing,
            n0,
            "samples/s",
            share=outcomes[BASELINE].timing.p50 / outcome.timing.p50 if BASELINE in outcomes else None,
            of=BASELINE if BASELINE in outcomes else "",
            memory_mb=outcome.memory_mb,
            cosine=cosine(outcome.features, reference),
        )


def cosine(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean cosine of tokens, [L, D] each."""
    a, b = features.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / norms).mean())


def techniques(runs: int = 5, names: Sequence[str] = (*TORCH, *BY_HAND, *FSFAST)) -> Iterator[Row]:
    """ViT-B/16 without purifier, n0 = 4, one image: from the research code to int8."""
    yield from rows_of("ViT-B/16, n0=4", race(able(names), built.vit(), _N0, runs), _N0)


def certification(n: int = 1000) -> Iterator[Row]:
    """Certify one image with n samples; the share is its peak memory over that of serving n0 = 4."""
    for label, engine, how in (
        ("demo", built.demo(), "onnxruntime, float32"),
        ("ViT-B/16", built.vit(), ", ".join(fastest_pair())),
    ):
        served = race([f"fsfast: {how}"], engine, _N0, 3)[f"fsfast: {how}"]
        # The shortest certification shows what its imports take.
        for samples in (4, n):
            done = race([f"certify: {how}"], engine, samples, 1)[f"certify: {how}"]
            share = {"share": done.memory_mb / served.memory_mb, "of": "the memory of n0=4"}
            variant = f"{label}, {how}, n={samples}"
            memory = {"memory_mb": done.memory_mb, **share}
            yield row("certify", variant, available_threads(), done.timing, samples, "samples/s", **memory)


_COLD = """
import json, time
a = time.perf_counter(); import fsfast
b = time.perf_counter(); e = fsfast.SmoothedEncoder({engine!r}, backend={backend!r}, precision={precision!r})
c = time.perf_counter(); e.encode({image!r})
print(json.dumps([b - a, c - b, time.perf_counter() - c]))
"""


def cold_start(runs: int = 3) -> Iterator[Row]:
    """Import, load, first feature of a new process; the self-test's result is cached."""
    pairs = (("onnxruntime", "float32"), fastest_pair())
    for label, engine in (("demo", built.demo()), ("ViT-B/16", built.vit())):
        for backend, precision in pairs:
            times = _cold(engine, backend, precision, runs)
            parts = dict(zip(("import", "load", "first feature"), times.T, strict=True))
            for part, seconds in {**parts, "together": times.sum(1)}.items():
                timing = Timing(*map(float, np.percentile(seconds, (20, 50, 80))))
                variant = f"{label}, {backend}, {precision}: {part}"
                yield row("cold start", variant, available_threads(), timing, 1, "starts/s")


def _cold(engine: str, backend: str, precision: str, runs: int) -> np.ndarray:
    """Return the seconds of import, load and first feature, [runs, 3]."""
    image = str(built.IMAGES / "cat.jpg")
    code = _COLD.format(engine=engine, backend=backend, precision=precision, image=image)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs + 1):
            done = subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                text=True,
                env={"PATH": "", "FSFAST_CACHE": folder},
            )
            times.append(json.loads(done.stdout))
    # The first one runs the self-test.
    return np.array(times[1:])


def sizes() -> Iterator[Row]:
    """The files of each precision on disk; a file that two share counts for both."""
    nothing = Timing(0.0, 0.0, 0.0)
    for label, engine in (("demo", built.demo()), ("ViT-B/16", built.vit())):
        manifest = load_engine(engine).manifest
        for precision in manifest.precisions:
            variants = [variants[precision] for variants in manifest.stages.values()]
            files = {file for variant in variants for file in (variant.file, variant.weights)}
            size = sum(manifest.files[file].bytes for file in files) / 1e6
            yield Row(
                "size on disk", f"{label}, {precision}", 0, *vars(nothing).values(), 0.0, "", disk_mb=size
            )
