"""A full-size encoder, ViT-B/16 with random weights: the runtime's share, and what to do with two threads."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.cpu import serving
from benchmarks.measuring.harness import Row, measure_together, row
from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.engine.engine import load_engine
from fsfast.machine import available_threads

_NUMBERS = (1, 4)
_SAMPLES = 4
_stack = contextlib.ExitStack()


@cache
def engine() -> str:
    """Build the engine in a temporary folder, once; it goes when Python ends."""
    from export.build import build_engine
    from export.recipe import load_recipe

    path = Path(_stack.enter_context(tempfile.TemporaryDirectory())) / "vit-b16-random"
    build_engine(load_recipe("vit-b16-random"), path, report=lambda line: None)
    return str(path)


def named(rows: Iterator[Row]) -> Iterator[Row]:
    """Show the engine's name in place of its temporary path."""
    from dataclasses import replace

    for item in rows:
        yield replace(item, variant=item.variant.replace(engine(), "vit-b16-random"))


def latency() -> Iterator[Row]:
    """Encode one 224×224 image with 1 and 4 samples."""
    yield from named(serving.latency(engine(), _NUMBERS, runs=9))


def steps() -> Iterator[Row]:
    """The share of noise, network and reduction in one sample."""
    yield from named(serving.steps(engine(), 4))


def threads() -> Iterator[Row]:
    """Four samples of the encoder on all threads: split inside a run, or runs side by side."""
    loaded = load_engine(engine())
    graph = loaded.graph("encoder", "float32")
    weights = loaded.read(loaded.manifest.weights["float32"])
    cores = available_threads()
    x = np.random.default_rng(0).standard_normal((_SAMPLES, 3, 224, 224)).astype(np.float32)
    inside = open_session(graph, weights, threads=cores)
    beside = open_session(graph, weights)
    input_name = beside.get_inputs()[0].name
    with ThreadPoolExecutor(cores) as team:
        calls = {}
        for m in (1, 2, 4):
            parts = [{input_name: x[i : i + m]} for i in range(0, _SAMPLES, m)]
            calls[f"split inside a run, M={m}"] = lambda parts=parts: [
                inside.run(None, part) for part in parts
            ]
            calls[f"runs side by side, M={m}"] = lambda parts=parts: list(
                team.map(lambda part: beside.run(None, part), parts)
            )
        for variant, timing in measure_together(calls).items():
            yield row("ViT-B/16, 4 samples", variant, cores, timing, _SAMPLES, "samples/s")
