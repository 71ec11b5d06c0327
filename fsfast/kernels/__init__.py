"""The three kernels around the networks, and the tables that they look up.

`cpu` is the implementation in C++ that the names below stand for, `reference` the meaning in NumPy.
"""

from fsfast.kernels.cpu import cosine_mean, denoise_resize_normalise, noisy_batch
from fsfast.kernels.tables import (
    check_thresholds,
    noise_reach,
    noise_tables,
    noise_total_variation,
    resize_tables,
)
from fsfast.kernels.types import AxisTable, FeatureSums, NoiseTables, ResizeTables, Rows

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
