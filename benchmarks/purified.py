"""The whole chain, purifier, encoder and mapper, on a CPU: techniques, latency against n0, and each stage's share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from benchmarks import built, serving
from benchmarks.cpu import BASELINE, rows_of
from benchmarks.harness import Row
from benchmarks.workers import race
from fsfast.backends import available_threads

_TECHNIQUES = (
    "torch: loop",
    BASELINE,
    "torch: batched, bf16",
    "fsfast: onnxruntime, float32",
    "fsfast: openvino, float32",
    "fsfast: openvino, bfloat16",
    "fsfast: openvino, int8",
    "fsfast: openvino, int8+bfloat16",
)
_LIGHT = "unet-light + ViT-B/16 + mapper"
_ADM = "adm256 + ViT-L/14"


def techniques(runs: int = 3) -> Iterator[Row]:
    """unet-light, ViT-B/16 and mapper, n0 = 4, one image."""
    yield from rows_of(f"{_LIGHT}, n0=4", race(_TECHNIQUES, built.purified(), 4, runs), 4)


def latency(runs: int = 2) -> Iterator[Row]:
    """The same for n0 = 1 … 16; the long ones are counted once."""
    for precision, (numbers, count) in product(
        ("float32", "bfloat16", "int8+bfloat16"), (((1, 2, 4), runs), ((8, 16), 1))
    ):
        yield from serving.latency(
            built.purified(),
            numbers,
            runs=count,
            threads=(available_threads(),),
            label=f"{_LIGHT}, {precision}",
            backend="openvino",
            precision=precision,
        )


def steps(runs: int = 2) -> Iterator[Row]:
    """Each stage's share of one sample."""
    for precision in ("float32", "bfloat16", "int8+bfloat16"):
        label = f"{_LIGHT}, {precision}"
        yield from serving.steps(built.purified(), 2, runs, label, backend="openvino", precision=precision)


def adm_techniques(runs: int = 3) -> Iterator[Row]:
    """adm256 and ViT-L/14, n0 = 1; one technique after the other, for the memory's sake."""
    names = [name for name in _TECHNIQUES if name not in ("torch: loop", "fsfast: openvino, int8")]
    outcomes = race(names, built.adm256(), 1, runs, together=False)
    yield from rows_of(f"{_ADM}, n0=1", outcomes, 1)


def adm_steps() -> Iterator[Row]:
    """Each stage's share of one sample."""
    for precision in ("float32", "bfloat16", "int8+bfloat16"):
        found = serving.steps(built.adm256(), 1, 2, _ADM, backend="openvino", precision=precision)
        yield from (replace(item, variant=f"{item.variant}, {precision}") for item in found)
