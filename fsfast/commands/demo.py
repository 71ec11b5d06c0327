"""Show everything once, on a photograph: features, certificate, replay, timings.

Uses the built-in engine and a photograph from the package, or one of yours (--image).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from fsfast.commands.common import (
    RANDOM_WEIGHTS,
    as_text,
    engine_arguments,
    open_encoder,
    show_bound,
    show_radius,
    table,
)
from fsfast.files import check_target

PHOTOGRAPH = Path(__file__).parent.parent / "assets" / "cat.jpg"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--image", metavar="FILE", default=str(PHOTOGRAPH), help="a photograph of yours")
    parser.add_argument("--engine", default="demo", help='engine to use (default: "demo")')
    parser.add_argument("-n", "--n", type=int, default=1000, help="certification samples (default 1000)")
    parser.add_argument(
        "--alpha", type=float, default=1e-3, help="probability of a wrong certificate (default 0.001)"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="keep the features and the certificate in this folder"
    )
    engine_arguments(parser, positional=False)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Encode, certify, replay; print what came out."""
    from fsfast.images import to_grid_image

    targets = _targets(args.output) if args.output is not None else []
    clock = time.perf_counter()
    with open_encoder(args) as encoder:
        seconds: dict[str, float] = {}
        image = to_grid_image(args.image, encoder.manifest.grid, name=as_text(args.image))
        served = encoder.encode(image)
        first_feature = time.perf_counter() - clock
        again = encoder.encode(image, seeds=served.seeds, seconds=seconds)
        clean = encoder.clean(image)
        start = time.perf_counter()
        certificate = encoder.certify(image, args.n, args.alpha, served=served)
        assert not isinstance(certificate, list)
        rate = args.n / (time.perf_counter() - start)
        found = encoder.verify(certificate, image)
        sigma, manifest = encoder.sigma, encoder.manifest
    if targets:
        served.save(targets[0])
        certificate.save(targets[1])
    kept = [as_text(target) for target in targets]
    cosine = _cosine(served.unit, clean)
    radii = [0.25 * sigma, 0.5 * sigma, sigma]
    if args.json:
        result = {
            "image": image.name,
            "features": list(served.features.shape),
            "bit_equal_replay": bool(np.array_equal(again.features, served.features)),
            "cosine_to_clean": cosine,
            "bounds": [{"epsilon": r, "cosine": certificate.cosine(r)} for r in radii],
            "radius_cosine_0.5": certificate.radius(0.5),
            "verify": found.verdict,
            "samples_per_s": rate,
            "steps_ms": {step: value / served.n0 * 1e3 for step, value in seconds.items()},
            "random_weights": served.random_weights,
            "kept": kept,
        }
        print(json.dumps(result))
        return 0 if found else 1
    print(f"{image.name} → {manifest.grid.height}×{manifest.grid.width} grid, engine {manifest.name}\n")
    equal = "bit-equal" if np.array_equal(again.features, served.features) else "DIFFERENT"
    shape = " × ".join(map(str, served.features.shape[1:]))
    facts = {
        "smoothed features": f"{shape}, mean of n0 = {served.n0} noisy passes at σ = {sigma:g}",
        "same seed again": equal,
        "cosine to clean": f"{cosine:.3f} (encoder alone on the clean image; no guarantee)",
        "certificate": f"n = {args.n}, α = {args.alpha:g}: mean score ≥ {certificate.score_lower_bound:.4f}",
        "radius for cos ≥ 0.5": show_radius(certificate.radius(0.5)),
        "replay": found.verdict,
    }
    for key, value in facts.items():
        print(f"{key + ':':<23}{value}")
    rows = [[f"{r:g}", show_bound(certificate.cosine(r))] for r in radii]
    print("\n" + table(rows, ("ℓ2 radius ε", "certified cosine ≥")))
    steps = [[step, f"{value / served.n0 * 1e3:.2f}"] for step, value in seconds.items() if value]
    print("\n" + table(steps, ("step", "ms per sample")))
    print(
        f"\nfirst feature {first_feature:.2f} s after start of the engine; certification {rate:.0f} samples/s"
    )
    if kept:
        print("kept: " + ", ".join(kept))
    if served.random_weights:
        print(RANDOM_WEIGHTS)
    print(f"\nnext: {_command()} certify demo YOUR-PHOTO.jpg")
    return 0 if found else 1


def _targets(folder: str) -> list[str]:
    """Make the folder, and return the files to write in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    targets = [str(Path(folder) / name) for name in ("features.safetensors", "certificate.json")]
    for target in targets:
        check_target(target)
    return targets


def _command() -> str:
    """Return how this program can be started again from here."""
    if shutil.which("fsfast"):
        return "fsfast"
    program = os.path.relpath(sys.argv[0])
    return "python -m fsfast" if os.path.basename(program) == "__main__.py" else program


def _cosine(unit: np.ndarray, clean: np.ndarray) -> float:
    """Mean over tokens of the cosine between the served direction and the clean features."""
    wide = clean.astype(np.float64)
    norm = np.maximum(np.linalg.norm(wide, axis=-1), 1e-300)
    return float(((unit * wide).sum(-1) / norm).mean())
