"""GPUs: whether there is a usable one, what names its bits."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import torch

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip


def problems() -> list[str]:
    """Return why device="cuda" cannot be used here, or nothing."""
    if torch.version.cuda is None:
        return [f"torch {torch.__version__} is built without CUDA; install a build for CUDA from pytorch.org"]
    if not torch.cuda.is_available():
        return ["torch finds no CUDA GPU; `nvidia-smi` shows what the driver sees"]
    try:
        installed("triton")
    except PackageNotFoundError:
        return [f"Triton is not installed; {pip('install', 'triton')}"]
    return []


def version() -> str:
    """Return everything of torch's that chooses kernels: torch, cuDNN and Triton."""
    parts = [str(torch.__version__)]
    if torch.backends.cudnn.is_available():
        parts.append(f"cudnn {torch.backends.cudnn.version()}")
    with contextlib.suppress(PackageNotFoundError):
        parts.append(f"triton {installed('triton')}")
    return ", ".join(parts)


def device_class(device: torch.device) -> str:
    """Return the class of devices that give the same bits."""
    if device.type == "cpu":
        from fsfast.machine import device_class as cpu_class

        return cpu_class()
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda+sm_{major}{minor}+{torch.cuda.get_device_name(device)}"


def cuda_device(name: str) -> torch.device:
    """Return the GPU that "cuda" or "cuda:1" names.

    Raises:
        BackendUnavailable: there is none, or it cannot be used.
        ValueError: the name is no GPU's.
    """
    if found := problems():
        raise BackendUnavailable(f"wanted device {name!r}: {'; '.join(found)}")
    index = name.removeprefix("cuda").removeprefix(":") or "0"
    count = torch.cuda.device_count()
    if name not in ("cuda", f"cuda:{index}") or not index.isdecimal():
        raise ValueError(f"wanted device 'cuda' or 'cuda:0', 'cuda:1', …, got {name!r}")
    if int(index) >= count:
        raise BackendUnavailable(f"wanted device {name!r}; torch finds cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", int(index))
