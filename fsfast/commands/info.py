"""Show what an engine is: networks, grid, noise level, sizes, provenance, digest.

The engine is verified whole before anything is shown.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fsfast.errors import FsfastError, printable
from fsfast.report.text import RANDOM_WEIGHTS, some_names, table

if TYPE_CHECKING:
    from fsfast.engine.engine import Engine


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "engine", metavar="ENGINE", nargs="?", default="demo", help='directory of an engine (default: "demo")'
    )
    parser.add_argument("--json", action="store_true", help="print the manifest and the digest as JSON")


def _backends(engine: Engine) -> list[str]:
    """Return a line per precision: what backend="auto" means here."""
    from fsfast.runtime.choice import expected

    lines = []
    for precision in engine.manifest.precisions:
        try:
            lines.append(f"{precision}: {expected(engine, precision)}")
        except FsfastError as error:
            lines.append(f"{precision}: {error}")
    return lines


def run(args: argparse.Namespace) -> int:
    """Print the description of an engine."""
    from fsfast.engine.engine import load_engine

    engine = load_engine(args.engine)
    manifest = engine.manifest
    if args.json:
        print(
            json.dumps(
                {"path": str(engine.path), "digest": engine.digest, "manifest": manifest.record}, indent=1
            )
        )
        return 0
    grid, total = manifest.grid, sum(entry.bytes for entry in manifest.files.values())
    tokens = f"{manifest.tokens} × {manifest.dim}" if not manifest.pooled else str(manifest.dim)
    facts = {
        "engine": f"{manifest.name} (written by fsfast {manifest.version})",
        "path": str(engine.path),
        "digest": engine.digest,
        "noise": f"σ = {manifest.sigma:g} ([0,1] pixel units), n0 = {manifest.n0} samples by default",
        "grid": f"{grid.height}×{grid.width}, other sizes: {grid.fit}, {grid.filter}",
        "features": f"{manifest.output}, {tokens}",
        "precisions": ", ".join(manifest.precisions),
        "size": f"{total / 1e6:.1f} MB",
    }
    if (classes := manifest.record.get("classes")) is not None:
        facts["classes"] = f"{classes.get('kind', 'directions')}: {printable(some_names(classes['names']))}"
    for key, value in facts.items():
        print(f"{key + ':':<12}{value}")
    rows = []
    for stage, variants in manifest.stages.items():
        for precision, variant in variants.items():
            worst = max((row["max_abs"] for row in variant.parity), default=0.0)
            source = next((p["source"] for p in manifest.record["provenance"] if p["stage"] == stage), "")
            rows.append((stage, precision, variant.file, f"{worst:.1e}", f"{variant.tolerance:g}", source))
    print(f"{'back ends:':<12}" + f"\n{'':<12}".join(_backends(engine)))
    print("\n" + table(rows, ("stage", "precision", "graph", "max |Δ| to float32", "tolerance", "weights")))
    if manifest.random_weights:
        print(f"\n{RANDOM_WEIGHTS}")
    return 0
