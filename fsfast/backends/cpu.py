"""The back ends of a CPU: which there are, and which are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from fsfast.backends.base import CpuBackend, Graph
from fsfast.engine.engine import Engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable

# Name → the module whose BACKEND it is, and the packages of which one brings the library.
_HOME = {
    "onnxruntime": ("fsfast.backends.onnxruntime.cpu", ("onnxruntime", "onnxruntime-gpu")),
    "openvino": ("fsfast.backends.openvino", ("openvino",)),
}
BACKENDS = tuple(_HOME)


def load_backend(name: str) -> CpuBackend:
    """Return a back end.

    Raises:
        BackendUnavailable: there is no such back end, or it cannot run on this machine.
    """
    if name not in _HOME:
        raise BackendUnavailable(f"wanted a back end of {', '.join(BACKENDS)}, got {name!r}")
    backend: CpuBackend = import_module(_HOME[name][0]).BACKEND
    return backend


def open_graphs(engine: Engine, backend: str, work: Work, *, threads: int) -> dict[str, Graph]:
    """Let a back end open the stages of some work; arguments and errors as `CpuBackend.open` and `load_backend`."""
    return load_backend(backend).open(engine, work, threads=threads)


def installed() -> dict[str, str]:
    """Return back end → version of those whose package is installed; nothing is imported."""
    found = {}
    for name, (_, packages) in _HOME.items():
        for package in packages:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found
