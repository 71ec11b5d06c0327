"""Rows, tables and sums as torch tensors: what the kernels read from a device's memory.

torch can do little with unsigned integers: 64-bit and 32-bit words are carried as the signed integers of the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsfast.kernels import checks
from fsfast.kernels.types import AxisTable, FeatureSums, NoiseTables, ResizeTables, Rows

Device = str | torch.device
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _tensor(array: np.ndarray, device: Device) -> Tensor:
    """Return a copy of `array` on the device; unsigned words as signed ones."""
    signed = {np.dtype(np.uint64): np.int64, np.dtype(np.uint32): np.int32, np.dtype(np.uint16): np.int16}
    packed = np.ascontiguousarray(array)
    return torch.tensor(packed.view(signed.get(packed.dtype, packed.dtype)), device=device)


@dataclass(frozen=True)
class RowTensors:
    """`fsfast.kernels.Rows` on a device; kernels read them when they run, so a CUDA graph replays with new ones.

    Attributes:
        image: [M] int32; −1 marks padding, and so does any other number that names no image.
        seed: [M] int64, the bits of the uint64 seeds.
        sample: [M] int32, the bits of the uint32 numbers.
    """

    image: Tensor
    seed: Tensor
    sample: Tensor

    @classmethod
    def from_arrays(cls, rows: Rows, images: int, device: Device) -> RowTensors:
        """Copy `rows`, which refer to `images` images, to the device.

        Raises:
            ValueError, TypeError: the rows are not consistent.
        """
        checks.check_rows(rows, images)
        return cls(_tensor(rows.image, device), _tensor(rows.seed, device), _tensor(rows.sample, device))

    def fill(self, rows: Rows, images: int) -> None:
        """Overwrite these rows in place: what a captured CUDA graph reads at its next replay.

        Raises:
            ValueError, TypeError: the rows are not consistent, or not as many.
        """
        if len(rows) != len(self.image):
            raise ValueError(f"rows: wanted {len(self.image)} rows, got {len(rows)}; pad with image −1")
        new = RowTensors.from_arrays(rows, images, "cpu")
        for target, source in ((self.image, new.image), (self.seed, new.seed), (self.sample, new.sample)):
            target.copy_(source)


@dataclass(frozen=True)
class NoiseTensors:
    """`fsfast.kernels.NoiseTables` on a device.

    Attributes:
        thresholds: [2K] int64, the bits of the uint64 thresholds.
        guide: [2^(9 + b)] int32, the bits of the guide's entries; empty where thresholds lie too densely for one.
        values: [3, 256 + 2K] float32, float16 or bfloat16.
    """

    thresholds: Tensor
    guide: Tensor
    values: Tensor

    @classmethod
    def from_arrays(cls, noise: NoiseTables, device: Device) -> NoiseTensors:
        """Copy `noise` to the device.

        Raises:
            ValueError, TypeError: the tables do not fit each other.
        """
        checks.check_noise(noise)
        values = _tensor(noise.values, device)
        if noise.values.dtype == np.uint16:
            values = values.view(torch.bfloat16)
        return cls(_tensor(noise.thresholds, device), _tensor(noise.guide, device), values)


@dataclass(frozen=True)
class ResizeTensors:
    """`fsfast.kernels.ResizeTables` on a device, and how the output's columns are cut into tiles.

    Attributes:
        row_start: [h] int32.
        row_weights: [h, taps] float32.
        column_start: [w] int32.
        column_weights: [w, taps] float32.
        height, width: of the input.
        span: input columns of a tile, a power of two.
        outputs: output columns of a tile: as many as `span` input columns serve.
    """

    row_start: Tensor
    row_weights: Tensor
    column_start: Tensor
    column_weights: Tensor
    height: int
    width: int
    span: int
    outputs: int

    @classmethod
    def from_arrays(cls, resize: ResizeTables, device: Device) -> ResizeTensors:
        """Copy `resize` to the device.

        Raises:
            ValueError, TypeError: a table reads outside of its axis.
        """
        rows, columns = resize.rows, resize.columns
        checks.check_axis("resize.rows", rows, rows.size)
        checks.check_axis("resize.columns", columns, columns.size)
        return cls(
            _tensor(rows.start, device),
            _tensor(rows.weights, device),
            _tensor(columns.start, device),
            _tensor(columns.weights, device),
            rows.size,
            columns.size,
            *column_tiles(columns),
        )


# A warp exchanges the columns of a tile among its 32 lanes: two per lane need the fewest instructions.
_SPAN = 64
_FEWEST_OUTPUTS = 16


def column_tiles(axis: AxisTable) -> tuple[int, int]:
    """Return (span, outputs): every tile of `outputs` ≤ span output columns reads within `span` input columns.

    Tiles begin at multiples of `outputs`. The span is a power of two of at least 64.
    """
    out = len(axis.start)
    first = axis.start.astype(np.int64)
    last = np.minimum(first + axis.weights.shape[1], axis.size)
    span = _SPAN
    while True:
        outputs = min(out, span)
        while outputs > 1 and _widest(first, last, outputs) > span:
            outputs -= 1
        if _widest(first, last, outputs) <= span and outputs >= min(out, _FEWEST_OUTPUTS):
            return span, outputs
        span *= 2


def _widest(first: np.ndarray, last: np.ndarray, outputs: int) -> int:
    """Return the most input columns that a tile of `outputs` output columns reads."""
    begins = np.arange(0, len(first), outputs)
    return int((np.maximum.reduceat(last, begins) - np.minimum.reduceat(first, begins)).max())


@dataclass
class SumTensors:
    """`fsfast.kernels.FeatureSums` on a device.

    Attributes:
        unit: [B, L, D] float64.
        norm: [B, L] float64.
        count: [B] int64.
        raw: [B, L, D] float64, or None.
    """

    unit: Tensor
    norm: Tensor
    count: Tensor
    raw: Tensor | None = None

    @classmethod
    def zeros(cls, images: int, tokens: int, dim: int, device: Device, *, raw: bool = False) -> SumTensors:
        """Return empty sums for B = `images`, L = `tokens`, D = `dim`."""
        return cls.from_arrays(FeatureSums.zeros(images, tokens, dim, raw=raw), device)

    @classmethod
    def from_arrays(cls, sums: FeatureSums, device: Device) -> SumTensors:
        """Copy `sums` to the device."""
        raw = None if sums.raw is None else _tensor(sums.raw, device)
        return cls(_tensor(sums.unit, device), _tensor(sums.norm, device), _tensor(sums.count, device), raw)

    def to_arrays(self) -> FeatureSums:
        """Copy the sums to the host."""
        raw = None if self.raw is None else self.raw.cpu().numpy()
        return FeatureSums(self.unit.cpu().numpy(), self.norm.cpu().numpy(), self.count.cpu().numpy(), raw)
