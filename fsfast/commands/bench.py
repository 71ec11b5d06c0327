"""Measure an engine on this machine: latency against n0, where the time goes, certification speed.

Medians over several runs, with the 20th and 80th percentile, on one image that is already on the grid.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fsfast.commands.common import engine_arguments, open_encoder, table

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder

# More runs, or more samples of one image, would say nothing new.
_MOST = 1_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    parser.add_argument(
        "--n0", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of samples (default 1 2 4 8 16)"
    )
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each (default 9)")
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    for flag, value in [("--runs", args.runs), *(("--n0", n0) for n0 in args.n0)]:
        if not 1 <= value <= _MOST:
            raise ValueError(f"wanted {flag} in [1, {_MOST}], got {value}")
    with open_encoder(args) as encoder:
        measured = [measure(encoder, n0, args.runs) for n0 in args.n0]
        certification = measure_certification(encoder)
        profile = encoder.profile
        if args.json:
            print(
                json.dumps(
                    {
                        "engine": encoder.manifest.name,
                        "profile": vars(profile),
                        "threads": encoder.threads,
                        "latency": measured,
                        "certification_samples_per_s": certification,
                    }
                )
            )
            return 0
        print(
            f"{encoder.manifest.name}: {profile.backend} {profile.backend_version}, {profile.precision}, "
            f"M = {profile.micro_batch}, {encoder.threads} threads, {profile.device}\n"
        )
    rows = [
        [
            str(m["n0"]),
            *(f"{m[key]:.2f}" for key in ("p50_ms", "p20_ms", "p80_ms")),
            f"{m['samples_per_s']:.0f}",
        ]
        for m in measured
    ]
    print(table(rows, ("n0", "ms per image", "p20", "p80", "samples/s")))
    longest = measured[-1]
    total = sum(longest["steps_ms"].values())
    rows = [[s, f"{ms:.3f}", f"{100 * ms / total:.1f}"] for s, ms in longest["steps_ms"].items() if ms]
    print("\n" + table(rows, ("step", "ms per sample, one thread", "% of the work")))
    print(f"\ncertification: {certification:.0f} samples/s")
    return 0


def measure_certification(encoder: SmoothedEncoder, n: int = 200) -> float:
    """Return the samples per second of certifying one image with n samples."""
    image = _picture(encoder)
    start = time.perf_counter()
    encoder.certify(image, n, progress=False)
    return n / (time.perf_counter() - start)


def _picture(encoder: SmoothedEncoder) -> np.ndarray:
    grid = encoder.manifest.grid
    return np.random.default_rng(0).integers(0, 256, (grid.height, grid.width, 3), dtype=np.uint8)


def measure(encoder: SmoothedEncoder, n0: int, runs: int) -> dict[str, Any]:
    """Return latency percentiles of encoding one image with n0 samples, and the time per step.

    Args:
        encoder: an open encoder.
        n0: samples per image.
        runs: counted runs, after one that warms up.
    """
    from fsfast.pipeline import STEPS

    image = _picture(encoder)
    encoder.encode(image, n0)
    seconds: dict[str, float] = {}
    wall = []
    for _ in range(runs):
        start = time.perf_counter()
        encoder.encode(image, n0, seconds=seconds)
        wall.append(time.perf_counter() - start)
    p20, p50, p80 = np.percentile(wall, (20, 50, 80)) * 1e3
    return {
        "n0": n0,
        "p20_ms": float(p20),
        "p50_ms": float(p50),
        "p80_ms": float(p80),
        "samples_per_s": n0 / float(p50) * 1e3,
        "steps_ms": {step: seconds[step] / (runs * n0) * 1e3 for step in STEPS},
    }
