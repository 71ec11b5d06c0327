"""The back ends of a CPU: which there are, and which are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

from fsfast.backends.base import CpuBackend, Graph
from fsfast.engine.engine import Engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, did_you_mean

# Name → the module whose BACKEND it is; the library's module has the same name.
_HOME = {"onnxruntime": "fsfast.backends.onnxruntime.cpu", "openvino": "fsfast.backends.openvino"}
BACKENDS = tuple(_HOME)


def load_backend(name: str) -> CpuBackend:
    """Return a back end.

    Raises:
        BackendUnavailable: there is no such back end, or it cannot run on this machine.
    """
    if name not in _HOME:
        near = did_you_mean(name, BACKENDS)
        raise BackendUnavailable(f"wanted a back end of {', '.join(BACKENDS)}, got {name!r}{near}")
    backend: CpuBackend = import_module(_HOME[name]).BACKEND
    return backend


def open_graphs(engine: Engine, backend: str, work: Work, *, threads: int) -> dict[str, Graph]:
    """Let a back end open the stages of some work; arguments and errors as `CpuBackend.open` and `load_backend`."""
    return load_backend(backend).open(engine, work, threads=threads)


def installed() -> dict[str, str]:
    """Return back end → version of those whose library is installed, by whatever package; nothing is imported."""
    return {name: _version(name) for name in _HOME if find_spec(name) is not None}


def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        pass
    # onnxruntime-gpu, onnxruntime-openvino, ort-nightly, …
    for package in packages_distributions().get(module, []):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "of unknown version"
