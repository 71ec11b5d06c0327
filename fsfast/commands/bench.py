"""Measure an engine on this machine: every precision on every back end, and which to take.

A table per back end and precision with the cosine of the features to those of float32; then, for the pair that is
recommended (or the one that --backend and --precision name), latency against n0 and the speed of certification.
Medians over several runs, with the 20th and 80th percentile, on one image that is already on the grid.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fsfast.commands.common import engine_arguments
from fsfast.commands.parser import Several, integer
from fsfast.errors import BackendUnavailable
from fsfast.report.text import table

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder
    from fsfast.report.speed import Measured

# More runs, or more samples of one image, would say nothing new.
_MOST = 1_000_000
_GRAPHS = ("purifier", "encoder", "mapper")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser, images=False)
    parser.add_argument(
        "--n0",
        metavar="N,…",
        action=Several,
        item=integer,
        default=[1, 2, 4, 8, 16],
        help="numbers of samples (default 1,2,4,8,16)",
    )
    parser.add_argument("--runs", metavar="N", type=int, default=9, help="counted runs of each (default 9)")
    parser.add_argument(
        "--cosine",
        metavar="C",
        type=float,
        default=0.999,
        help="smallest cosine to float32 of what is recommended (default 0.999)",
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from fsfast.encoder import SmoothedEncoder
    from fsfast.report.speed import measure, measure_certification, recommend

    for flag, value in [("--runs", args.runs), *(("--n0", n0) for n0 in args.n0)]:
        if not 1 <= value <= _MOST:
            raise ValueError(f"wanted {flag} in [1, {_MOST}], got {value}")
    if not -1.0 <= args.cosine <= 1.0:
        raise ValueError(f"wanted --cosine in [-1, 1], got {args.cosine}")
    measured, skipped = _compare(args)
    best = recommend(measured, args.cosine)
    with SmoothedEncoder(
        args.engine, backend=best.backend, precision=best.precision, **_options(args)
    ) as encoder:
        latency = [measure(encoder, n0, args.runs) for n0 in args.n0]
        certification = measure_certification(encoder, latency[-1]["samples_per_s"])
        if args.json:
            print(json.dumps(_record(encoder, measured, skipped, best, latency, certification)))
            return 0
        _show(encoder, measured, skipped, best, args.cosine)
    rows = [
        [
            str(m["n0"]),
            *(f"{m[key]:.2f}" for key in ("p50_ms", "p20_ms", "p80_ms")),
            f"{m['samples_per_s']:.0f}",
        ]
        for m in latency
    ]
    print("\n" + table(rows, ("n0", "ms per image", "p20", "p80", "samples/s")))
    speed = (
        "longer than 20 seconds, not measured" if certification is None else f"{certification:.0f} samples/s"
    )
    print(f"\ncertification: {speed}")
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("device", "threads", "micro_batch", "graph_threads", "stages")
    return {name: getattr(args, name) for name in names}


def _compare(args: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """Return what was measured, and why other pairs were not."""
    from fsfast.engine.engine import load_engine
    from fsfast.report.speed import compare, pairs

    manifest = load_engine(args.engine).manifest
    skipped: list[str] = []
    measured = []
    backends, precisions = pairs(args.device, args.backend, args.precision, manifest.precisions)
    for found in compare(
        args.engine,
        backends,
        precisions,
        n0=manifest.n0,
        runs=args.runs,
        options=_options(args),
        skipped=lambda backend, precision, why: skipped.append(f"{backend}, {precision}: {why}"),
    ):
        measured.append(found)
        if sys.stderr.isatty():
            print(f"measured {found.backend}, {found.precision}", file=sys.stderr)
    if not measured:
        raise BackendUnavailable("; ".join(skipped))
    _remember(args, measured)
    return measured, skipped


def _remember(args: argparse.Namespace, measured: Sequence[Measured]) -> None:
    """Keep the fastest back end of each precision for later hints, if the engine was measured as it is opened."""
    from fsfast.engine.engine import load_engine
    from fsfast.runtime.advice import Speed, remember

    if any(value is not None for name, value in _options(args).items() if name not in ("device", "threads")):
        return
    if args.device not in ("auto", "cpu") or measured[0].precision != "float32":
        return
    fastest: dict[str, Speed] = {}
    for found in measured:
        if found.precision not in fastest or found.p50_ms < fastest[found.precision].milliseconds:
            fastest[found.precision] = Speed(found.backend, found.p50_ms, found.cosine)
    remember(load_engine(args.engine), fastest)


def _show(
    encoder: SmoothedEncoder,
    measured: Sequence[Measured],
    skipped: Sequence[str],
    best: Measured,
    cosine: float,
) -> None:
    first = measured[0]
    print(f"{encoder.manifest.name}, n0 = {first.n0}, {encoder.threads} threads, {encoder.profile.device}\n")
    stages = [step for step in _GRAPHS if first.steps_ms[step]]
    header = (
        "back end",
        "precision",
        "ms per image",
        "p20",
        "p80",
        "samples/s",
        "× first",
        "cosine to first",
    )
    rows = [
        [
            m.backend,
            m.precision,
            *(f"{ms:.2f}" for ms in (m.p50_ms, m.p20_ms, m.p80_ms)),
            f"{m.samples_per_s:.0f}",
            f"{first.p50_ms / m.p50_ms:.2f}",
            f"{m.cosine:.6f}",
        ]
        for m in measured
    ]
    print(table(rows, header))
    if stages:
        _show_steps(measured, stages)
    for line in skipped:
        print(f"not measured: {line}")
    print(
        f"\nrecommended: backend={best.backend!r}, precision={best.precision!r}, the fastest with a cosine of at "
        f"least {cosine:g} to the first row.\n"
        "Each precision and back end is a function of its own, with its own certificates."
    )


def _show_steps(measured: Sequence[Measured], stages: list[str]) -> None:
    rows = [
        [
            m.backend,
            m.precision,
            *(f"{m.steps_ms[stage]:.2f}" for stage in stages),
            f"{sum(ms for step, ms in m.steps_ms.items() if step not in stages):.2f}",
        ]
        for m in measured
    ]
    print("\nms per sample on its thread:")
    print(table(rows, ("back end", "precision", *stages, "around them")))


def _record(
    encoder: SmoothedEncoder,
    measured: Sequence[Measured],
    skipped: Sequence[str],
    best: Measured,
    latency: list[dict[str, Any]],
    certification: float | None,
) -> dict[str, Any]:
    from fsfast.report.speed import record

    return {
        **record(encoder, latency, certification),
        "variants": [{**vars(m), "samples_per_s": m.samples_per_s} for m in measured],
        "not_measured": list(skipped),
        "recommended": {"backend": best.backend, "precision": best.precision},
    }
