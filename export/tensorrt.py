"""Build the TensorRT plans of an engine ahead of time: `fsfast export tensorrt ENGINE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fsfast.backends.tensorrt import TIME_LIMIT, TensorRt, plan_folder, prepare_plan
from fsfast.backends.tensorrt.building import stored
from fsfast.backends.tensorrt.library import LIBRARIES, Library, find_library
from fsfast.commands.parser import Parser, Several, one_of
from fsfast.engine.engine import Engine, load_engine
from fsfast.engine.manifest import STAGES
from fsfast.errors import FsfastError
from fsfast.report.text import table
from fsfast.runtime.options import check_micro_batch, choose_precision, default_micro_batch

from .stopping import run

_HEADINGS = ("stage", "nodes", "layers", "build s", "plan MB", "peak MB", "")


@dataclass(frozen=True)
class Row:
    """What came of one stage.

    Attributes:
        stage: its name.
        nodes: nodes of the ONNX graph.
        layers: layers of the network before the library fuses them.
        seconds: how long parsing and building took.
        plan_mb: size of the plan, MB of 10⁶ bytes.
        peak_mb: the most memory that the building process held, likewise.
        sha256: of the plan, hex.
        built: False where a good plan was there already; the other numbers are then those of its build.
    """

    stage: str
    nodes: int
    layers: int
    seconds: float
    plan_mb: float
    peak_mb: float
    sha256: str
    built: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Build the plans that the arguments name; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        library = find_library(args.library)
        engine = load_engine(args.engine)
        backend = TensorRt(library.name)
        precision = choose_precision(backend.precisions(engine.manifest), args.precision)
        taken = backend.rows(engine.manifest, precision)
        m = default_micro_batch(engine.manifest, taken) if args.micro_batch is None else args.micro_batch
        micro_batch = check_micro_batch(taken, m)
        folder = args.out or plan_folder()
        rows = []
        for stage in _stages(engine, args.stages):
            print(f"{stage}: a plan for 1 to {micro_batch} rows, {library}", file=sys.stderr)
            rows.append(_row(engine, stage, precision, micro_batch, library, folder, args))
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export tensorrt: {error}", file=sys.stderr)
        return 2
    if args.json:
        found = {"engine": engine.digest, "library": str(library), "precision": precision}
        found |= {"micro_batch": micro_batch, "folder": str(folder), "stages": [asdict(row) for row in rows]}
        print(json.dumps(found, indent=1))
    else:
        print(_table(rows))
        print(f"{engine.manifest.name}, {precision}, M = {micro_batch}, {library}: plans in {folder}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="fsfast export tensorrt",
        description="Build an engine's TensorRT plans ahead of time. TensorRT-RTX does so without a GPU.",
    )
    parser.add_argument("engine", help="directory of an engine, or the name of a built-in one")
    parser.add_argument(
        "--stages",
        metavar="STAGE,…",
        action=Several,
        item=one_of(STAGES),
        help=f"of {','.join(STAGES)} those to build (default: all of the engine)",
    )
    parser.add_argument(
        "--micro-batch",
        type=int,
        metavar="M",
        help="the plan takes 1 to M rows and is fastest at M (default: the M of a GPU's encoder, n0 in 4…16)",
    )
    parser.add_argument(
        "--precision", help="variant of the stages, or bfloat16 (default: the engine's first)"
    )
    parser.add_argument(
        "--library", choices=list(LIBRARIES), help="who builds (default: the first that is installed)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of plans (default: fsfast's cache, where it serves from)",
    )
    parser.add_argument("--force", action="store_true", help="build again where a good plan lies")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=TIME_LIMIT / 60,
        metavar="MINUTES",
        help=f"that a plan may take (default {TIME_LIMIT / 60:g})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _stages(engine: Engine, wanted: list[str] | None) -> list[str]:
    """Return the stages to build, in the engine's order."""
    known = list(engine.manifest.stages)
    if unknown := sorted(set(wanted or []) - set(known)):
        raise ValueError(f"wanted stages of this engine ({', '.join(known)}), got {unknown[0]!r}")
    return [stage for stage in known if wanted is None or stage in wanted]


def _row(
    engine: Engine,
    stage: str,
    precision: str,
    micro_batch: int,
    library: Library,
    folder: Path,
    args: argparse.Namespace,
) -> Row:
    # Imported only now, so that --help and wrong arguments answer at once.
    import onnx

    graph = onnx.load_model_from_string(engine.graph(stage, stored(precision))).graph
    plan = prepare_plan(
        engine,
        stage,
        precision,
        micro_batch,
        library,
        folder=folder,
        rebuild=args.force,
        time_limit=60 * args.time_limit,
    )
    return Row(
        stage,
        len(graph.node),
        plan.layers,
        plan.seconds,
        len(plan.content) / 1e6,
        plan.peak_bytes / 1e6,
        plan.sha256,
        plan.built,
    )


def _table(rows: list[Row]) -> str:
    cells = [
        (
            row.stage,
            f"{row.nodes}",
            f"{row.layers}",
            f"{row.seconds:.1f}",
            f"{row.plan_mb:.1f}",
            f"{row.peak_mb:.0f}",
            "" if row.built else "(was there)",
        )
        for row in rows
    ]
    return table(cells, _HEADINGS)


if __name__ == "__main__":
    run("fsfast export tensorrt", main, "export", "tensorrt")
