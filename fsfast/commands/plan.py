"""Plan machines for a load: processors, samples of certificates, latency, memory.

From what `fsfast bench --json` measured on a machine of the kind that is to serve, or from a short measurement here.
Every number says whether it was measured, extrapolated from a measurement, or computed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsfast.commands.common import engine_arguments
from fsfast.report.text import table

if TYPE_CHECKING:
    from fsfast.report.sizing import Measurement

_RUNNING = ("device", "backend", "precision", "threads", "micro_batch", "graph_threads", "stages")
_RUNS = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--images-per-second", metavar="R", type=float, required=True, help="to be served, when it is busiest"
    )
    parser.add_argument("--n0", metavar="N", type=int, help="samples per image (default: the engine's)")
    parser.add_argument(
        "--epsilon", metavar="E", type=float, help="also certify, at this l2 radius in [0,1] pixel units"
    )
    parser.add_argument("--cosine", metavar="C", type=float, help="to be certified there (default 0.5)")
    parser.add_argument(
        "--alpha", metavar="A", type=float, default=1e-3, help="of a certificate (default 0.001)"
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=int,
        help="of one certificate on average, where you know them (default: the fewest that could do)",
    )
    parser.add_argument(
        "--share", metavar="S", type=float, default=1.0, help="of the images that are certified (default 1)"
    )
    parser.add_argument(
        "--utilisation",
        metavar="U",
        type=float,
        default=0.7,
        help="of the processors at most; the rest is for peaks and for HTTP (default 0.7)",
    )
    parser.add_argument(
        "--bench",
        metavar="FILE",
        type=Path,
        help="what `fsfast bench --json` printed on a machine of the kind (default: measure here)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    engine_arguments(parser, images=False)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from fsfast.engine.engine import load_engine
    from fsfast.report.sizing import Demand, plan, target_of
    from fsfast.runtime.sampling import check_samples

    if args.epsilon is None and (args.cosine, args.samples) != (None, None):
        raise ValueError("wanted --epsilon with --cosine and --samples: the radius of the certificates")
    engine = load_engine(args.engine)
    n0 = engine.manifest.n0 if args.n0 is None else check_samples(args.n0, "--n0")
    target = None
    if args.epsilon is not None:
        target = target_of(args.epsilon, args.cosine, args.alpha, args.samples)
    demand = Demand(args.images_per_second, n0, target, args.samples, args.share, args.utilisation)
    measured = _measured(args, n0)
    found = plan(engine, measured, demand)
    if args.json:
        print(json.dumps([asdict(estimate) for estimate in found], indent=1))
        return 0
    print(
        f"{engine.manifest.name}, {args.images_per_second:g} images/s, on machines with {measured.threads} threads of "
        f"{measured.device}, {measured.backend}, {measured.precision}\n"
    )
    rows = [
        [each.name, f"{_shown(each.value)} {each.unit}".rstrip(), each.source, each.why] for each in found
    ]
    print(table(rows, ("what", "value", "source", "from")))
    return 0


def _measured(args: argparse.Namespace, n0: int) -> Measurement:
    """Return what is known of the machine; raises ValueError, OSError."""
    from fsfast.report.sizing import Measurement
    from fsfast.strict_json import parse_json

    if args.bench is None:
        return Measurement.of(_measure(args, n0))
    given = [name for name in _RUNNING if getattr(args, name) not in (None, "auto")]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--bench says how the engine was run; give {flags} to `fsfast bench` instead")
    try:
        return Measurement.of(parse_json(args.bench.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{args.bench}: {error}") from None


def _measure(args: argparse.Namespace, n0: int) -> dict[str, Any]:
    """Measure the engine here as it would be opened."""
    from fsfast.encoder import SmoothedEncoder
    from fsfast.report.speed import measure, measure_certification, record

    with SmoothedEncoder(args.engine, **{name: getattr(args, name) for name in _RUNNING}) as encoder:
        # Enough rows for all threads, too.
        latency = [measure(encoder, samples, _RUNS) for samples in sorted({n0, max(n0, 2 * encoder.threads)})]
        certification = measure_certification(encoder, latency[-1]["samples_per_s"])
        return record(encoder, latency, certification)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
