"""The whole chain, purifier, encoder and mapper, on a CPU: techniques against n0, and each stage's share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.cpu import serving
from benchmarks.cpu.runtimes import BY_HAND, FSFAST, TORCH, rows_of
from benchmarks.measuring import built
from benchmarks.measuring.able import able
from benchmarks.measuring.harness import Row
from benchmarks.measuring.workers import one_by_one
from export.variants import backends_for

# Calls of each technique; the long ones are counted once.
RUNS = {1: 3, 2: 3, 4: 3, 8: 1, 16: 1}
# With both cores inside of a run, which a single sample needs.
TWO_THREADS = ("fsfast: openvino, bfloat16, T=2", "fsfast: openvino, int8+bfloat16, T=2")
TECHNIQUES = (*TORCH, *BY_HAND, *FSFAST, *TWO_THREADS)
# A batch of one is the loop, and 8 bits are for the encoder alone, with bfloat16.
ADM_TECHNIQUES = tuple(
    name
    for name in TECHNIQUES
    if name not in ("torch: batched", "torch: batched, medium")
    and not name.endswith((": int8", ", int8", "M=2"))
)
_LIGHT = "unet-light + ViT-B/16 + mapper"
_ADM = "adm256 + ViT-L/14"


def techniques() -> Iterator[Row]:
    """unet-light, ViT-B/16 and mapper, one image."""
    for n0, outcomes in one_by_one(able(TECHNIQUES), built.purified(), RUNS).items():
        yield from rows_of(f"{_LIGHT}, n0={n0}", outcomes, n0)


def _step_precisions() -> list[str]:
    return [name for name in ("float32", "bfloat16", "int8+bfloat16") if "openvino" in backends_for(name)]


def steps(runs: int = 2) -> Iterator[Row]:
    """Each stage's share of one sample."""
    for precision in _step_precisions():
        label = f"{_LIGHT}, {precision}"
        yield from serving.steps(built.purified(), 2, runs, label, backend="openvino", precision=precision)


def adm_techniques(runs: int = 3) -> Iterator[Row]:
    """adm256 and ViT-L/14, n0 = 1."""
    outcomes = one_by_one(able(ADM_TECHNIQUES), built.adm256(), {1: runs})[1]
    yield from rows_of(f"{_ADM}, n0=1", outcomes, 1)


def adm_steps() -> Iterator[Row]:
    """Each stage's share of one sample."""
    for precision in _step_precisions():
        found = serving.steps(built.adm256(), 1, 2, _ADM, backend="openvino", precision=precision)
        yield from (replace(item, variant=f"{item.variant}, {precision}") for item in found)
