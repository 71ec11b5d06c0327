"""What the three kernels share: rows, look-up tables and running sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Dtype = Literal["float32", "float16", "bfloat16"]
Layout = Literal["nchw", "nhwc"]

# Raised whenever a kernel's bits change: it is part of the name of the function that certificates speak about.
KERNEL_VERSION = 1

# NumPy has no bfloat16: arrays of that type are carried as their bit patterns.
STORAGE: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}


def dtype_name(array: np.ndarray) -> Dtype:
    """Return the tensor type that `array` stores; uint16 holds the bits of bfloat16.

    Raises:
        TypeError: the array's dtype is not float32, float16 or uint16.
    """
    for name, storage in STORAGE.items():
        if array.dtype == storage:
            return name  # type: ignore[return-value]
    raise TypeError(
        f"wanted float32, float16 or uint16 (the bits of bfloat16), got {array.dtype}; convert with .astype()"
    )


@dataclass(frozen=True)
class Rows:
    """The noisy samples of one micro-batch: row i is sample `sample[i]` of image `image[i]`.

    Attributes:
        image: [M] int32, index into the batch of images; −1 marks a padding row.
        seed: [M] uint64, the image's own 64-bit seed (the Philox key).
        sample: [M] uint32, number of the sample within its stream.
    """

    image: np.ndarray
    seed: np.ndarray
    sample: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


def no_lines() -> np.ndarray:
    """Return lines of values that are looked up: [0, 5] float32."""
    return np.empty((0, 5), np.float32)


@dataclass(frozen=True)
class NoiseTables:
    """Everything that turns uniform bits and a pixel into a float: prepared once per engine and dtype.

    Attributes:
        thresholds: [2K] uint64, ascending: N = #{j: U ≥ thresholds[j]} − K.
        guide: [2^(9 + b)] uint32, look-up table derived from `thresholds` (see `fsfast.kernels.float_guide`); empty
            where they lie too densely for one.
        values: [3, 256 + 2K] float32, float16 or uint16 (bfloat16 bits): the float of v = x + N is
            values[channel, v + K].
        lines: [3, 5] float32, how float32 values are computed instead of looked up (see `fsfast.kernels.lines`); or
            [0, 5].
    """

    thresholds: np.ndarray
    guide: np.ndarray
    values: np.ndarray
    lines: np.ndarray = field(default_factory=no_lines)

    @property
    def reach(self) -> int:
        """K: the noise lies in [−K, K]."""
        return len(self.thresholds) // 2


@dataclass(frozen=True)
class AxisTable:
    """One axis of a separable resize: out[i] = Σ_t weights[i, t] · in[start[i] + t].

    Attributes:
        start: [out] int32.
        weights: [out, taps] float32; taps beyond the end of an axis have weight 0 and are never read.
        size: length of the input axis.
    """

    start: np.ndarray
    weights: np.ndarray
    size: int

    def matrix(self) -> np.ndarray:
        """Return the same as a matrix, [out, size] float32."""
        matrix = np.zeros((len(self.start), self.size), np.float32)
        for row, (start, weights) in enumerate(zip(self.start, self.weights, strict=True)):
            taps = weights[: self.size - start]
            matrix[row, start : start + len(taps)] = taps
        return matrix


@dataclass(frozen=True)
class ResizeTables:
    """Antialiased separable resize from (rows.size, columns.size) to (len(rows.start), len(columns.start))."""

    rows: AxisTable
    columns: AxisTable


@dataclass
class FeatureSums:
    """Running sums over the samples of B images; memory does not depend on the number of samples.

    Attributes:
        unit: [B, L, D] float64, sum of the unit tokens (each token divided by its norm).
        norm: [B, L] float64, sum of the raw token norms.
        count: [B] int64, samples added.
        raw: [B, L, D] float64, sum of the raw tokens, or None when nobody asks for it.
    """

    unit: np.ndarray
    norm: np.ndarray
    count: np.ndarray
    raw: np.ndarray | None = None

    @classmethod
    def zeros(cls, images: int, tokens: int, dim: int, *, raw: bool = False) -> FeatureSums:
        """Return empty sums for B = `images`, L = `tokens`, D = `dim`."""
        return cls(
            unit=np.zeros((images, tokens, dim)),
            norm=np.zeros((images, tokens)),
            count=np.zeros(images, np.int64),
            raw=np.zeros((images, tokens, dim)) if raw else None,
        )
