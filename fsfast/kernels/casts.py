"""Casts between float32 and the tensor types, round to nearest even; NumPy has no bfloat16."""

from __future__ import annotations

import numpy as np

from fsfast.kernels.types import STORAGE, Dtype, dtype_name


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return the values of a float32, float16 or uint16 (bfloat16 bits) array as float32; exact.

    Raises:
        TypeError: another dtype.
    """
    if dtype_name(array) == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def from_float32(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return float32 `values` as `dtype`, rounded to nearest even; a NaN stays a NaN.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in STORAGE:
        raise ValueError(f"wanted a dtype among {', '.join(STORAGE)}, got {dtype!r}")
    if dtype != "bfloat16":
        # Beyond 65504 float16 becomes infinite, as in every other implementation.
        with np.errstate(over="ignore"):
            return values.astype(STORAGE[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # Rounding could turn a NaN into an infinity.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
