"""What a precision costs in certified radius, and what it gains in speed, on the trained built-in engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

import fsfast
from benchmarks.cpu.runtimes import cosine
from benchmarks.measuring import built
from benchmarks.measuring.able import able_pairs
from benchmarks.measuring.harness import Row, Timing, row
from fsfast.machine import available_threads
from train.data import study_set

PAIRS = (
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("openvino", "int8+bfloat16"),
)


def trade_off(n: int = 1000, images: int = 8) -> Iterator[Row]:
    """Certify test images with the same seeds at every precision, and replay the first certificate of each."""
    pictures = list(study_set(0, images).images.permute(0, 2, 3, 1).byte().numpy())
    reference: np.ndarray | None = None
    for backend, precision in able_pairs(PAIRS):
        with fsfast.SmoothedEncoder(built.demo(), backend=backend, precision=precision) as encoder:
            features = encoder.encode(pictures, seeds=range(len(pictures))).unit
            reference = features if reference is None else reference
            times, radii = [], []
            for seed, picture in enumerate(pictures):
                start = time.perf_counter()
                certificate = encoder.certify(picture, n, seeds=[seed], progress=False)
                times.append(time.perf_counter() - start)
                radii.append(certificate.radius(0.5))
                if seed == 0 and not encoder.verify(certificate, picture):
                    raise RuntimeError(f"a certificate of {backend}, {precision} does not verify")
        timing = Timing(*map(float, np.percentile(times, (20, 50, 80))))
        yield row(
            f"certify, n={n}",
            f"{backend}, {precision}",
            available_threads(),
            timing,
            n,
            "samples/s",
            cosine=cosine(features, reference),
            radius=float(np.mean(radii)),
        )
