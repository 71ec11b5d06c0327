"""The three kernels around the networks, and the tables that they look up.

`cpu` is the implementation in C++ that the names below stand for, `reference` the meaning in NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsfast.kernels.tables import (
    check_thresholds,
    noise_reach,
    noise_tables,
    noise_total_variation,
    resize_tables,
)
from fsfast.kernels.types import AxisTable, FeatureSums, NoiseTables, ResizeTables, Rows

if TYPE_CHECKING:
    from fsfast.kernels.cpu import cosine_mean, denoise_resize_normalise, noisy_batch

__all__ = [
    "AxisTable",
    "FeatureSums",
    "NoiseTables",
    "ResizeTables",
    "Rows",
    "check_thresholds",
    "cosine_mean",
    "denoise_resize_normalise",
    "noise_reach",
    "noise_tables",
    "noise_total_variation",
    "noisy_batch",
    "resize_tables",
]

_COMPILED = ("cosine_mean", "denoise_resize_normalise", "noisy_batch")


def __getattr__(name: str) -> Any:
    # On first use: engines can be read, and `fsfast doctor` can speak, where the extension does not load.
    if name not in _COMPILED:
        raise AttributeError(f"module 'fsfast.kernels' has no attribute {name!r}")
    from fsfast.kernels import cpu

    return getattr(cpu, name)
