"""Run benchmarks and write their results: `python -m benchmarks [GROUP …]`.

`python -m benchmarks paper --help` is another command: the paper's tables, with published weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from export.stopping import exit_without, run

try:
    from benchmarks.cpu import (
        bounds,
        instruction_sets,
        kernels,
        precisions,
        purified,
        runtimes,
        serving,
        stacks,
        vit,
    )
    from benchmarks.gpu import kernels as gpu
    from benchmarks.gpu import parts
    from benchmarks.measuring import harness
    from benchmarks.measuring.harness import Row, show, write_csv
except ImportError as error:
    exit_without("python -m benchmarks", error, "dev")

# One results file each.
REGISTRY: dict[str, tuple[Callable[[], Iterator[Row]], ...]] = {
    "kernels": (kernels.noise, kernels.resize, kernels.reduction),
    "instruction-sets": (instruction_sets.cases,),
    "bounds": (bounds.curves, bounds.means),
    "serving": (serving.latency, serving.steps, serving.certification, serving.cold_start),
    "vit": (vit.threads, vit.latency, vit.steps),
    "cpu": (runtimes.techniques, runtimes.certification, runtimes.cold_start, runtimes.sizes),
    "purified": (purified.techniques, purified.steps),
    "precisions": (precisions.trade_off,),
    "stacks": (stacks.towers,),
    "adm256": (purified.adm_techniques, purified.adm_steps),
    "gpu": (gpu.noise, gpu.resize, gpu.reduction),
    "gpu-parts": (parts.norms, parts.norm_convolutions, parts.residuals, parts.networks),
}
# adm256 needs 7 GB of disk, 12 GB of memory and many minutes; gpu-parts spends minutes in torch.compile.
ON_DEMAND = {"adm256", "gpu-parts"}
# What a machine without a CUDA GPU leaves out.
ON_GPU = frozenset({"gpu", "gpu-parts"})


def main(argv: list[str] | None = None) -> int:
    """Run the named groups, or all; print tables and write one CSV file per group."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["paper"]:
        from benchmarks.paper.command import main as paper

        return paper(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    usual = [name for name in REGISTRY if name not in ON_DEMAND]
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"{', '.join(REGISTRY)} (default: {', '.join(usual)})"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results/<machine>)"
    )
    args = parser.parse_args(arguments)
    if unknown := [group for group in args.groups if group not in REGISTRY]:
        parser.error(f"wanted groups of {', '.join(REGISTRY)}, got {unknown[0]!r}")
    missing = ON_GPU if (why := gpu.unusable()) else frozenset()
    if refused := missing & set(args.groups):
        parser.error(f"{min(refused)}: {why}")
    for group in args.groups or usual:
        if group in missing:
            print(f"{group}: left out: {why}")
            continue
        measure(group, args.out)
    return 0


def measure(group: str, folder: Path | None) -> None:
    """Measure a group, print it and write its file.

    On a GPU, whose time is dear, the file is written after every row; elsewhere an old file is better than half of a
    new one.
    """
    rows: list[Row] = []
    device = harness.gpu() if group in ON_GPU else None
    for found in chain.from_iterable(case() for case in REGISTRY[group]):
        rows.append(found)
        if device:
            write_csv(group, rows, folder, device)
    print(show(rows))
    print(f"→ {write_csv(group, rows, folder, device)}\n", flush=True)


if __name__ == "__main__":
    run("python -m benchmarks", main, "dev")
