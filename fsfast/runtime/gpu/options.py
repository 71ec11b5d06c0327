"""What a user's options mean on a GPU."""

from __future__ import annotations

from fsfast.backends import gpu
from fsfast.backends.device.stages import GpuBackend
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable
from fsfast.runtime.options import (
    Options,
    check_micro_batch,
    choose_precision,
    choose_stages,
    default_micro_batch,
)


def usable_backend(options: Options) -> tuple[str, GpuBackend]:
    """Return the back end that is meant; "auto" is torch, where it knows the engine's networks.

    Raises:
        BackendUnavailable: it is unknown or cannot run here; with the reason and the remedy.
    """
    name = gpu.DEFAULT if options.backend == "auto" else options.backend
    backend = gpu.load_backend(name)
    if found := backend.problems():
        raise BackendUnavailable(f"device='cuda' with backend={name!r}: {'; '.join(found)}")
    return name, backend


def backend_of_graphs(manifest: Manifest) -> tuple[str, GpuBackend]:
    """Return the back end that "auto" means for an engine with a network that torch does not know.

    Raises:
        BackendUnavailable: none can run here; with the remedies.
    """
    problems = []
    for name in gpu.OF_GRAPHS:
        backend = gpu.load_backend(name)
        if not (found := backend.problems()):
            return name, backend
        problems += found
    raise BackendUnavailable(
        f"device='cuda': the encoder of {manifest.name} came as an ONNX graph, which wants one of "
        f"{', '.join(gpu.OF_GRAPHS)} on a GPU: {'; '.join(problems)}"
    )


def work_of(manifest: Manifest, name: str, backend: GpuBackend, options: Options) -> Work:
    """Return what is to run.

    Raises:
        ValueError: another precision, micro-batch or stage than the engine and the back end have.
    """
    stages = choose_stages(manifest, options.stages)
    able = backend.precisions(manifest)
    precision = choose_precision(able, options.precision, f"this engine with backend={name!r} on a GPU")
    rows = backend.rows(manifest, precision)
    m = default_micro_batch(manifest, rows) if options.micro_batch is None else options.micro_batch
    return Work(precision, stages, check_micro_batch(rows, m))
