"""The back ends of a GPU: which there are, and what keeps them from running."""

from __future__ import annotations

from importlib import import_module

from fsfast.backends.device.stages import GpuBackend
from fsfast.errors import BackendUnavailable, did_you_mean

# Name → the module whose `gpu_backend` makes it; the first is the default. torch runs the engine's modules, the others
# its ONNX graphs.
_HOME = {
    "torch": "fsfast.backends.torch",
    "torch-compile": "fsfast.backends.torch",
    "tensorrt": "fsfast.backends.tensorrt",
    "tensorrt_rtx": "fsfast.backends.tensorrt",
    "onnxruntime": "fsfast.backends.onnxruntime.gpu",
}
BACKENDS = tuple(_HOME)
DEFAULT = BACKENDS[0]
# For an engine whose encoder is known as a graph alone: the default is the first that can run here.
OF_GRAPHS = ("onnxruntime", "tensorrt_rtx", "tensorrt")


def load_backend(name: str) -> GpuBackend:
    """Return a back end, whether it can run here or not.

    Raises:
        BackendUnavailable: there is no such back end.
    """
    if name not in _HOME:
        raise BackendUnavailable(
            f"wanted a back end of {', '.join(BACKENDS)} for device='cuda', got {name!r}"
            f"{did_you_mean(name, BACKENDS)}"
        )
    backend: GpuBackend = import_module(_HOME[name]).gpu_backend(name)
    return backend


def missing(name: str) -> list[str]:
    """Return what keeps a back end from running on a GPU that torch can use, or nothing.

    Raises:
        BackendUnavailable: there is no such back end.
    """
    return load_backend(name).problems()
