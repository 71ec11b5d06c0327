"""Where a training runs: its folder and its device."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from pathlib import Path

import torch

_LOGGER = logging.getLogger("fsfast.train")
_MAX_THREADS = 1024
# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare(folder: Path, resume: bool) -> None:
    """Make the folder of a run, refusing to mix two runs, and ask the C library to keep freed memory.

    Raises:
        ValueError: there is a run in the folder that is not to be resumed.
    """
    if folder.exists() and any(folder.glob("*.checkpoint.pt")) and not resume:
        raise ValueError(
            f"wanted an empty --out, got a run in {folder}; continue it with --resume, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Returning every large tensor to the kernel costs a fifth of the time in page faults.
    if sys.platform == "linux" and hasattr(os, "confstr") and (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def choose_device(name: str) -> torch.device:
    """Return a device by name; "auto" is CUDA where there is one.

    Raises:
        ValueError: another name, or CUDA is wanted and there is none, or no device of that number.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"wanted --device auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"wanted device {name}, got a machine without CUDA; use --device cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"wanted device {name}, got a machine with {torch.cuda.device_count()}; use cuda:0")
    _LOGGER.info("training on %s", name)
    return device


def set_threads(threads: int | None) -> None:
    """Set torch's threads on the CPU; None leaves them as they are.

    Raises:
        ValueError: less than one, or more than torch takes.
    """
    if threads is None:
        return
    if not 1 <= threads <= _MAX_THREADS:
        raise ValueError(f"wanted --threads in 1…{_MAX_THREADS}, got {threads}")
    torch.set_num_threads(threads)
