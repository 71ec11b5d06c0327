"""Add reduced precisions to an engine: `fsfast export quantise ENGINE --images DIR --out DIR`.

bfloat16 computes the float32 graphs in bfloat16. int8 computes products with stored weights in 8 bits, with scales
calibrated on noisy (and purified) samples of the given images, and the rest in float32; int8+bfloat16 the rest in
bfloat16. Every variant is measured against float32 on samples that did not calibrate it. A stage that 8 bits change too
much keeps its float32 graph. Without --precisions, what this processor cannot measure is left out.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fsfast.commands.parser import Parser, Several, one_of
from fsfast.engine.engine import Engine, load_engine
from fsfast.engine.manifest import STAGES
from fsfast.engine.writer import check_target, save_engine
from fsfast.errors import FsfastError
from fsfast.installation import pip_install_extras

from .stopping import exit_without, run

try:
    from .calibration import Samples, load_images
    from .card import reduced_precisions
    from .qdq import WEIGHT_LIMITS
    from .reduce import PRECISIONS, Options, Reduced, Settled, reduce_stage
    from .variants import ARITHMETIC, backends_for, why_not
    from .weights import WeightsFile, point_into
except ImportError as error:
    if __name__ != "__main__":
        raise
    exit_without("fsfast export quantise", error, "export")

WEIGHTS = "weights.int8.safetensors"
_CARD = "model-card.md"


def add_precisions(
    source: str | Path,
    images: Path,
    path: str | Path,
    options: Options,
    *,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> str:
    """Write an engine with more precisions than `source` has, and return its digest.

    Args:
        source: the engine, or a built-in one's name.
        images: folder of pictures like those to be served.
        path: the new engine's directory.
        options: what to make.
        force: replace an engine that stands there.
        report: receives one line per stage and precision.

    Raises:
        EngineError: the source cannot be used, or something stands at `path`.
        ImageError: a picture cannot be read.
        ValueError: no pictures, options are off, or no stage stays close enough to float32 in int8.
    """
    path = Path(path)
    check_target(path, force)
    for precision in PRECISIONS if options.precisions is None else ():
        if not backends_for(precision):
            report(f"{precision} is left out: {why_not(precision)}")
    settled = options.resolved()
    engine = load_engine(source)
    _check(engine, settled)
    pictures = load_images(images, engine, settled.samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the engine: the weights may not fit where temporary files usually are.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        reduced, files = _reduce(engine, pictures, settled, Path(folder), report)
        record = _record(engine, reduced, settled)
        record["quantisation"] = _provenance(engine, pictures, settled, reduced)
        card = engine.read(_CARD).decode("utf-8") if _CARD in engine.manifest.files else ""
        files[_CARD] = reduced_precisions(card, record).encode()
        kept = {name: engine.path / name for name in engine.manifest.files if name not in files}
        digest = save_engine(path, record, {**kept, **files}, force=force)
    size = sum(entry.stat().st_size for entry in path.iterdir())
    report(f"{path}: {size / 1e6:.1f} MB, digest {digest[:16]}…")
    return digest


def _check(engine: Engine, options: Settled) -> None:
    manifest = engine.manifest
    if not options.precisions:
        raise ValueError(f"no back end here computes in a reduced precision; {pip_install_extras('cpu')}")
    if options.weight_bits not in WEIGHT_LIMITS:
        raise ValueError(f"wanted 7 or 8 bits of a weight, got {options.weight_bits}")
    if "float32" not in manifest.precisions:
        raise ValueError(f"wanted an engine with float32, got {', '.join(manifest.precisions)}")
    if present := [p for p in options.precisions if p in manifest.weights]:
        raise ValueError(f"{engine.path} has {present[0]} already; start from the engine without it")
    if options.samples < 4 or not 0.0 < options.accept < 1.0:
        raise ValueError(
            f"wanted at least 4 samples and a cosine in (0, 1) to accept, got {options.samples} and {options.accept}"
        )
    for stage in options.stages or ():
        if stage not in manifest.stages:
            raise ValueError(f"wanted stages of this engine ({', '.join(manifest.stages)}), got {stage!r}")
    for precision in options.precisions:
        if not backends_for(precision):
            raise ValueError(
                f"{precision} cannot be measured here: {why_not(precision)}, or choose with --precisions"
            )


def _reduce(
    engine: Engine,
    pictures: Sequence[np.ndarray],
    options: Settled,
    folder: Path,
    report: Callable[[str], None],
) -> tuple[dict[str, Reduced], dict[str, bytes | Path]]:
    """Return stage → result, and the new files; only one stage's weights are in memory at a time."""
    calibration = Samples(engine, pictures, options.samples, seed=0)
    # Other noise, so that nothing is measured on what it was fitted to.
    check = Samples(engine, pictures, max(options.samples // 4, 1), seed=1)
    file, offsets, reduced = WeightsFile(folder), {}, {}
    for stage in engine.manifest.stages:
        result = reduce_stage(engine, stage, options, calibration, check, report)
        if result.int8 is not None:
            offsets[stage] = file.add(stage, result.int8.weights)
            result = replace(result, int8=replace(result.int8, weights={}))
        reduced[stage] = result
    if not any(p in options.precisions for p in ("int8", "int8+bfloat16")):
        return reduced, {}
    if not offsets:
        raise ValueError(
            f"no stage keeps a cosine of {options.accept} to float32 in int8; give other images, accept less with "
            "--accept, or choose --precisions bfloat16"
        )
    begin = file.finish(folder / WEIGHTS)
    files: dict[str, bytes | Path] = {WEIGHTS: folder / WEIGHTS}
    for stage, places in offsets.items():
        graph = reduced[stage].int8
        assert graph is not None
        files[f"{stage}.int8.onnx"] = point_into(graph, places, begin, WEIGHTS)
    return reduced, files


def _record(engine: Engine, reduced: dict[str, Reduced], options: Settled) -> dict[str, Any]:
    """Return the manifest with the new variants."""
    manifest = engine.manifest
    float_weights = manifest.weights["float32"]
    stages = {}
    for stage, result in reduced.items():
        variants = dict(manifest.record["stages"][stage])
        for precision in options.precisions:
            variant = {**variants["float32"], **result.measured[precision].fields()}
            if ARITHMETIC[precision] != "float32":
                variant["arithmetic"] = ARITHMETIC[precision]
            if precision != "bfloat16":
                if result.int8 is not None:
                    variant["file"] = f"{stage}.int8.onnx"
                else:
                    variant["weights"] = float_weights
            variants[precision] = variant
        stages[stage] = variants
    weights = {p: float_weights if p == "bfloat16" else WEIGHTS for p in options.precisions}
    return {**manifest.record, "stages": stages, "weights": {**manifest.weights, **weights}}


def _provenance(
    engine: Engine, pictures: Sequence[np.ndarray], options: Settled, reduced: dict[str, Reduced]
) -> dict[str, Any]:
    """Return how the variants were made, for the manifest."""
    pixels = hashlib.sha256()
    for picture in pictures:
        pixels.update(np.ascontiguousarray(picture))
    return {
        "from": engine.digest,
        "scheme": f"static; int8 weights of {options.weight_bits} bits per output channel, symmetric; uint8 "
        "activations per tensor, from the smallest to the largest value seen; sums in int32",
        "images": len(pictures),
        "images_sha256": pixels.hexdigest(),
        "samples": options.samples,
        "accept": options.accept,
        "float32_instead": {
            stage: {"cosine_in_int8": result.refused}
            for stage, result in reduced.items()
            if result.refused is not None
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Add precisions as the arguments say; return the exit code."""
    args = _parser().parse_args(argv)
    options = Options(
        tuple(args.precisions) if args.precisions else None,
        tuple(args.stages) if args.stages else None,
        args.samples,
        args.accept,
        args.weight_bits,
    )
    try:
        add_precisions(args.engine, Path(args.images), args.out, options, force=args.force)
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export quantise: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(prog="fsfast export quantise", description=__doc__)
    parser.add_argument(
        "engine", metavar="ENGINE", help='directory of an engine, or "demo" for the built-in one'
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="pictures like those to be served")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--force", action="store_true", help="replace an engine that stands there")
    parser.add_argument(
        "--precisions",
        metavar="NAME,…",
        action=Several,
        item=one_of(PRECISIONS),
        help=f"of {','.join(PRECISIONS)} those to add (default: all that this processor can measure)",
    )
    parser.add_argument(
        "--stages",
        metavar="NAME,…",
        action=Several,
        item=one_of(STAGES),
        help=f"of {','.join(STAGES)} those that may become int8 (default: all that the engine has)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=64,
        help="noisy samples that calibrate (default 64); a quarter as many measure",
    )
    parser.add_argument(
        "--accept",
        type=float,
        default=Options.accept,
        help=f"smallest cosine to float32 with which a stage may become int8 (default {Options.accept})",
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=sorted(WEIGHT_LIMITS),
        help="of int8 weights: 7 is faster on processors without VNNI, 8 is nearer to float32 (default: 8 where this "
        "processor has VNNI, else 7)",
    )
    return parser


if __name__ == "__main__":
    run("fsfast export quantise", main, "export")
