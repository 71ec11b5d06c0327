"""A back end runs one neural graph on one micro-batch; the kernels around it are ours."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.onnx_unsigned import has_8_bit_products
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable
from fsfast.machine import processor


class Graph(Protocol):
    """A network at a fixed precision; safe to call from several threads at once."""

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the graph on `x` [M, …] into `out` [M, …], both contiguous."""


class CpuBackend(Protocol):
    """A library that runs an engine's graphs on a CPU."""

    def version(self) -> str:
        """Return the library's version: it names the bits."""

    def problems(self) -> list[str]:
        """Return what is wrong with its installation, or nothing."""

    def arithmetics(self) -> tuple[str, ...]:
        """Return what it computes floating-point operations of a float32 graph in, on this processor."""

    def exact_8_bit_products(self) -> bool:
        """Return whether it adds products of 8 bits exactly on this processor."""

    def open(self, engine: Engine, work: Work, *, threads: int) -> dict[str, Graph]:
        """Open the stages of some work from verified bytes only: the graphs, and the weights that they point into.

        Args:
            engine: a verified engine.
            work: what is to run.
            threads: in all, shared out among runs side by side.

        Raises:
            BackendUnavailable: it lacks something that the precision wants here.
            EngineError: it cannot read a graph.
        """


def side_by_side(threads: int, graph_threads: int) -> int:
    """Return how many runs of a graph go side by side on so many threads: at least one."""
    return max(threads // graph_threads, 1)


def check_arithmetic(
    backend: str, able: tuple[str, ...], manifest: Manifest, precision: str, stages: tuple[str, ...]
) -> None:
    """Refuse a precision whose floating-point operations a back end would compute in something else.

    Args:
        backend: its name.
        able: the arithmetics that it has here.
        manifest, precision, stages: what is to run.

    Raises:
        BackendUnavailable: it lacks one.
    """
    for stage in stages:
        arithmetic = manifest.stages[stage][precision].arithmetic
        if arithmetic not in able:
            raise BackendUnavailable(
                f"wanted {precision} for the {stage}, which computes in {arithmetic}; {backend} computes in "
                f"{' and '.join(able)} on this machine. Choose another back end or precision"
            )


def check_products(
    backend: str, exact: bool, engine: Engine, precision: str, stages: tuple[str, ...]
) -> None:
    """Refuse a precision whose 8-bit products a back end would not add exactly on this processor.

    Args:
        backend: its name.
        exact: whether it adds them exactly.
        engine, precision, stages: what is to run.

    Raises:
        BackendUnavailable: it would not.
        EngineError: a graph is not what the engine says.
    """
    if exact:
        return
    for stage in stages:
        if has_8_bit_products(engine.graph(stage, precision)):
            raise BackendUnavailable(
                f"wanted {precision} for the {stage}; {backend} cannot add products of 8 bits exactly on "
                f"{processor()}, which has no VNNI. backend='onnxruntime' can, or choose the precision "
                f"{engine.manifest.precisions[0]}"
            )


def stage_shapes(manifest: Manifest, stage: str) -> tuple[list[int], list[int]]:
    """Return the shapes of a stage's input and output, without the batch axis."""
    grid = [3, manifest.grid.height, manifest.grid.width]
    features = [manifest.tokens, manifest.dim]
    return {
        "purifier": (grid, grid),
        "encoder": ([3, *manifest.encoder_size], features),
        "mapper": (features, features),
    }[stage]
