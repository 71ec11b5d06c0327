"""What the networks compute in: three precisions of the same weights, with every choice of torch's fixed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch

from fsfast.engine import Engine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# All of them are made from these weights.
STORED = "float32"
# Of the golden outputs, relative to their largest magnitude. Rounding of the reduced ones: 8 and 11 bits, through up
# to 100 layers; a wrong network is off by far more.
_TOLERANCES = {"bfloat16": 1e-1, "float16": 1.5e-2}


def with_precision(engine: Engine, precision: str) -> Engine:
    """Return the engine as if it had a variant of every stage in this precision, for the self-test.

    The digest stays: the precision is part of the profile, and so of the function's name.
    """
    if precision == STORED:
        return engine
    manifest, record = engine.manifest, copy.deepcopy(engine.manifest.record)
    stages = {}
    for stage, variants in manifest.stages.items():
        stored = variants[STORED]
        stages[stage] = {**variants, precision: replace(stored, tolerance=_TOLERANCES[precision])}
        record["stages"][stage][precision] = record["stages"][stage][STORED]
    return replace(engine, manifest=replace(manifest, stages=stages, record=record))


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
    (_CUDNN, "benchmark", False),
    (_CUDNN, "deterministic", True),
]
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
            _before = [_get(place, name) for place, name, _ in _SETTINGS]
            _set([value for _, _, value in _SETTINGS])
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _set(_before)


def _get(place: Any, name: str) -> object:
    """Return a setting, or None where torch does not answer: the newer switches then say it all."""
    try:
        return getattr(place, name)
    except RuntimeError:
        return None


def _set(values: list[object]) -> None:
    for (place, name, _), value in zip(_SETTINGS, values, strict=True):
        if value is not None:
            setattr(place, name, value)
