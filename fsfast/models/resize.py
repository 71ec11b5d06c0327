"""The way from the grid to the encoder's input as a torch module, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fsfast.kernels.tables import resize_tables


class Resize(nn.Module):
    """Antialiased resize and normalisation, up to rounding what the kernels compute.

    Args:
        grid, size: (height, width) before and after.
        mean, std: three numbers each, in [0, 1] units.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, grid: tuple[int, int], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        resize = resize_tables(grid, size)
        self.register_buffer("rows", torch.from_numpy(resize.rows.matrix()))
        self.register_buffer("columns", torch.from_numpy(resize.columns.matrix()))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return [M, 3, h, w], the encoder's input in the module's dtype, of [M, 3, H, W] in [0, 1]."""
        # The module's own precision, whatever surrounds it: weights of the resize are not for autocast.
        with torch.autocast(pixels.device.type, enabled=False):
            fitted = self.rows @ pixels.to(self.rows.dtype) @ self.columns.T
        return (fitted - self.mean) / self.std
