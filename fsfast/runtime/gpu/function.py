"""The fixed function on one device: served means are finished there, and can stay there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fsfast.images.grid import GridImage
from fsfast.kernels.tensors import SumTensors
from fsfast.runtime.function import Function, Served, stack
from fsfast.runtime.gpu.pipeline import GpuPipeline, refuse_seconds
from fsfast.runtime.pipeline import Advance
from fsfast.runtime.sampling import Stream, micro_batches


@dataclass(frozen=True)
class GpuFunction(Function):
    """`fsfast.runtime.function.Function` whose pipeline is a GpuPipeline."""

    pipeline: GpuPipeline
    keeps_tensors: ClassVar[bool] = True

    def serve(
        self,
        items: list[GridImage],
        seeds: list[int],
        n0: int,
        *,
        raw_mean: bool = False,
        advance: Advance | None = None,
        seconds: dict[str, float] | None = None,
    ) -> Served:
        """As `Function.serve`; what is read back is float32 and of one size, whatever n0."""
        refuse_seconds(seconds)
        self.pipeline.check_open()
        lane = self.pipeline.lane
        found = self.served_tensors(lane.upload(stack(items)), seeds, n0, raw_mean=raw_mean, advance=advance)
        features, unit, raw = (None if tensor is None else lane.read(tensor) for tensor in found)
        assert features is not None
        assert unit is not None
        return Served(features, unit, raw)

    def served_tensors(
        self,
        images: Tensor,
        seeds: Sequence[int],
        n0: int,
        *,
        raw_mean: bool = False,
        advance: Advance | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Average n0 samples of the serving stream for every image, without waiting for the device.

        Args:
            images: [B, H, W, 3] uint8 on the device.
            seeds: one per image.
            n0: samples per image.
            raw_mean: also return the mean of the raw features.
            advance: called with the number of samples launched.

        Returns:
            features, unit and raw (or None) as in `Served`, on the device, on the pipeline's stream.
        """
        sums = self.pipeline.empty_sums(len(images), raw=raw_mean)
        rows = micro_batches(seeds, n0, self.profile.micro_batch)
        for _ in self.pipeline.accumulate(images, rows, Stream.SERVING, sums):
            if advance:
                advance(self.profile.micro_batch)
        with self.pipeline.lane.current():
            return finished(sums, n0)

    def takes(self, images: object) -> bool:
        """Whether these are images on the device and on the grid, [H, W, 3] or [B, H, W, 3] uint8."""
        grid = self.manifest.grid
        return (
            isinstance(images, Tensor)
            and images.device == self.pipeline.lane.device
            and images.dtype == torch.uint8
            and images.ndim in (3, 4)
            and images.shape[-3:] == (*grid.size, 3)
        )


def finished(sums: SumTensors, n0: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return features, directions and mean raw features, [B, L, D] float32, of sums over n0 samples."""
    # One image at a time: the order of a sum over channels could otherwise depend on the number of images.
    units = torch.stack([directions(unit) for unit in sums.unit])
    features = (units * (sums.norm / n0)[:, :, None]).float()
    return features, units, None if sums.raw is None else (sums.raw / n0).float()


def directions(unit_sums: Tensor) -> Tensor:
    """Return [L, D] float32: float64 sums of unit tokens divided by their norms; a zero token stays zero."""
    norm = torch.linalg.vector_norm(unit_sums, dim=-1, keepdim=True)
    return torch.where(norm > 0, unit_sums / norm, 0.0).float()
