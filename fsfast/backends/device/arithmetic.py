"""Every choice of torch's that could change what is computed, fixed while networks run or are captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch

# Untyped: torch replaces these modules by objects.
_MATMUL, _CUDNN = cast(Any, torch.backends.cuda.matmul), cast(Any, torch.backends.cudnn)
# In this order, general ones first. "none" everywhere means no TF32. torch's compilers ask for the older switch, which
# does not answer where the newer ones say something else; so both are set.
_SETTINGS: list[tuple[Any, str, object]] = [
    (cast(Any, torch.backends), "fp32_precision", "none"),
    (_CUDNN, "fp32_precision", "none"),
    (_CUDNN, "allow_tf32", False),
    (_CUDNN.conv, "fp32_precision", "none"),
    (_CUDNN.rnn, "fp32_precision", "none"),
    (_MATMUL, "allow_tf32", False),
    (_MATMUL, "fp32_precision", "none"),
    (_MATMUL, "allow_bf16_reduced_precision_reduction", False),
    (_MATMUL, "allow_fp16_reduced_precision_reduction", False),
    (_MATMUL, "allow_fp16_accumulation", False),
    (_CUDNN, "benchmark", False),
    (_CUDNN, "deterministic", True),
    (_CUDNN, "enabled", True),
]
# Which kernels attention may take; among these torch's choice depends on shapes and the GPU alone. cuDNN's are made
# while they run, and belong to the thread that first asked for them.
_ATTENTION = {"flash": True, "mem_efficient": True, "math": True, "cudnn": False}
# The library of matrix products: a variable of the environment or a program may prefer another.
_BLAS = "cublas"
_lock = threading.Lock()
_before: list[object] = []
_inside = 0


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Make float32 mean float32, sum halves in float32, and let no race choose an algorithm.

    torch keeps these settings per process. The last thread that leaves puts them back; work that was captured
    meanwhile keeps them.
    """
    global _before, _inside
    with _lock:
        if not _inside:
            _before = _get()
            _set([*(value for _, _, value in _SETTINGS), *_ATTENTION.values(), _BLAS])
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _set(_before)


def _get() -> list[object]:
    """Return the settings; None where torch does not answer: the newer switches then say it all."""
    found: list[object] = []
    for read in (
        *(partial(getattr, place, name) for place, name, _ in _SETTINGS),
        *(getattr(torch.backends.cuda, f"{name}_sdp_enabled") for name in _ATTENTION),
        torch.backends.cuda.preferred_blas_library,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found


def _set(values: list[object]) -> None:
    count = len(_SETTINGS)
    for (place, name, _), value in zip(_SETTINGS, values[:count], strict=True):
        if value is not None:
            setattr(place, name, value)
    *attention, blas = values[count:]
    for name, value in zip(_ATTENTION, attention, strict=True):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(value)
    torch.backends.cuda.preferred_blas_library(cast(Any, blas))
