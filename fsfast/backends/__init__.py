"""Back ends run one neural graph on one micro-batch; the kernels around them are ours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fsfast.engine.manifest import Manifest
from fsfast.engine.onnx_unsigned import has_8_bit_products
from fsfast.errors import BackendUnavailable
from fsfast.kernels.types import KERNEL_VERSION
from fsfast.machine import device_class, processor

if TYPE_CHECKING:
    from fsfast.engine.engine import Engine

BACKENDS = ("onnxruntime", "openvino")
DEFAULT_MICRO_BATCH = {"cpu": 1}


class Graph(Protocol):
    """A network at a fixed precision; safe to call from several threads at once."""

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the graph on `x` [M, …] into `out` [M, …], both contiguous."""


@dataclass(frozen=True)
class Profile:
    """Everything besides the engine that decides the bits of a feature.

    Attributes:
        backend, backend_version: what runs the graphs.
        precision: which variant of the stages.
        micro_batch: M, rows per run of a graph.
        device: device class; on a CPU the architecture and its vector extensions.
        stages: the stages in use, in their order.
        kernels: version of the kernels' bits.
        graph_threads: threads inside one run of a graph; libraries choose the order of sums by it.
    """

    backend: str
    backend_version: str
    precision: str
    micro_batch: int
    device: str
    stages: tuple[str, ...]
    kernels: int = KERNEL_VERSION
    graph_threads: int = 1

    def record(self) -> dict[str, Any]:
        """Return the fields by name; a single thread inside a run goes without saying, as in older records."""
        fields = asdict(self)
        if self.graph_threads == 1:
            del fields["graph_threads"]
        return fields

    def function_id(self, engine_digest: str) -> str:
        """Return the name of the fixed function f: sha256 over the engine's digest and this profile, hex."""
        fields = "".join(f"{key}={value}\n" for key, value in sorted(self.record().items()))
        return sha256(f"engine={engine_digest}\n{fields}".encode()).hexdigest()


@dataclass(frozen=True)
class Work:
    """What is to run, whoever runs it: these fields of a Profile.

    Attributes:
        precision, stages, micro_batch, graph_threads: as in Profile.
    """

    precision: str
    stages: tuple[str, ...]
    micro_batch: int = 1
    graph_threads: int = 1

    def profile(self, backend: str, version: str) -> Profile:
        """Return the profile of a back end on this machine's CPU."""
        return Profile(
            backend,
            version,
            self.precision,
            self.micro_batch,
            device_class(),
            self.stages,
            graph_threads=self.graph_threads,
        )


def load_backend(name: str) -> ModuleType:
    """Return the module of a back end: `version()`, `arithmetics()`, `exact_8_bit_products()`, `problems()` and
    `open_graphs(engine, precision, stages, micro_batch=, threads=, graph_threads=)`.

    Raises:
        BackendUnavailable: there is no such back end, or it cannot run on this machine.
    """
    if name not in BACKENDS:
        raise BackendUnavailable(f"wanted a back end of {', '.join(BACKENDS)}, got {name!r}")
    return import_module(f"fsfast.backends.{name}")


def open_graphs(engine: Engine, backend: str, work: Work, *, threads: int) -> dict[str, Graph]:
    """Open an engine's stages for the CPU; `threads` in all, shared out among runs side by side.

    Raises:
        BackendUnavailable: the back end cannot run the precision here.
        EngineError: it cannot read a graph.
    """
    return load_backend(backend).open_graphs(
        engine,
        work.precision,
        work.stages,
        micro_batch=work.micro_batch,
        threads=side_by_side(threads, work.graph_threads),
        graph_threads=work.graph_threads,
    )


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
