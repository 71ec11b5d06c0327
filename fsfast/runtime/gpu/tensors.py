"""Images on the device in, features on the device out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fsfast.errors import ImageError
from fsfast.images.grid import GridImage, to_grid_image
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.gpu.function import GpuFunction
from fsfast.runtime.gpu.pipeline import IMAGES
from fsfast.runtime.sampling import check_samples
from fsfast.runtime.seeds import SeedOrigin, Seeds
from fsfast.runtime.selecting import selected


@dataclass(frozen=True, eq=False)
class SmoothedTensors:
    """Smoothed features of B images on the device: a sequence of batches of one, indexed as `SmoothedFeatures`.

    Attributes:
        features: [B, L, D] float32 ([B, D] when pooled), as in `SmoothedFeatures`.
        unit: same shape, float32: the directions.
        images: [B, H, W, 3] uint8, what they belong to: a copy, since the caller may overwrite his.
        seeds, seed_origins: the serving noise of each image.
        n0: samples per image.
        function: what computed them.
        raw_mean: same shape as features, float32: mean of the raw features, without a certificate; or None.
    """

    features: Tensor
    unit: Tensor
    images: Tensor
    seeds: tuple[int, ...]
    seed_origins: tuple[SeedOrigin, ...]
    n0: int
    function: GpuFunction
    raw_mean: Tensor | None = None

    def __repr__(self) -> str:
        shape, name = list(self.features.shape), self.function.manifest.name
        return f"SmoothedTensors({name}: features {shape} on {self.features.device}, n0 = {self.n0})"

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[SmoothedTensors]:
        return (self[i] for i in range(len(self)))

    def __getitem__(
        self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor
    ) -> SmoothedTensors:
        """Return the features of some images, as a batch; errors as `fsfast.runtime.selecting.selected`.

        Positions and slices do not wait for the device; a tensor as index is copied to the host.
        """
        some = selected(index.cpu().numpy() if isinstance(index, Tensor) else index, len(self))
        places = range(len(self))[some] if isinstance(some, slice) else some.tolist()
        rows = some if isinstance(some, slice) else torch.as_tensor(some, device=self.features.device)
        return replace(
            self,
            features=self.features[rows],
            unit=self.unit[rows],
            images=self.images[rows],
            seeds=tuple(self.seeds[i] for i in places),
            seed_origins=tuple(self.seed_origins[i] for i in places),
            raw_mean=None if self.raw_mean is None else self.raw_mean[rows],
        )

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            f"features on {self.features.device} are not copied to the host unasked: .numpy() copies them all, "
            ".features is the tensor"
        )

    def numpy(self) -> SmoothedFeatures:
        """Copy to the host: what `SmoothedEncoder.encode` returns, and `certify(served=)` takes."""
        manifest = self.function.manifest
        items = [to_grid_image(image, manifest.grid) for image in self.images.cpu().numpy()]
        return SmoothedFeatures(
            features=self.features.cpu().numpy(),
            unit=self.unit.cpu().numpy(),
            seeds=np.array(self.seeds, np.uint64),
            seed_origins=self.seed_origins,
            grid_sha256=tuple(item.grid_sha256 for item in items),
            n0=self.n0,
            sigma=manifest.sigma,
            engine=manifest.name,
            engine_digest=self.function.engine_digest,
            function_id=self.function.function_id,
            random_weights=manifest.random_weights,
            raw_mean=None if self.raw_mean is None else self.raw_mean.cpu().numpy(),
            names=tuple(item.name for item in items),
            sources=tuple(item.source for item in items),
        )


def encode_tensors(
    function: GpuFunction,
    source: Seeds,
    images: Tensor,
    n0: int | None = None,
    seeds: Sequence[int] | np.ndarray | None = None,
    *,
    raw_mean: bool = False,
) -> SmoothedTensors:
    """Encode images on the device; arguments as `SmoothedEncoder.encode_tensors`.

    Raises:
        ImageError: another dtype, shape or device.
        ValueError: n0 or seeds are off.
    """
    pipeline, manifest = function.pipeline, function.manifest
    _check(images, (*manifest.grid.size, 3), pipeline.lane.device)
    n0 = manifest.n0 if n0 is None else check_samples(n0, "n0")
    drawn = source.serving(_items(source, images, seeds is None), seeds)
    chosen = [seed for seed, _ in drawn]
    pipeline.check_open()
    with pipeline.lane.beside_caller(images) as hand_out:
        own = images.contiguous().clone()
        # So many at a time bound the memory of the sums.
        groups = [slice(first, first + IMAGES) for first in range(0, len(own), IMAGES)]
        parts = [function.served_tensors(own[g], chosen[g], n0, raw_mean=raw_mean) for g in groups]
        features = _shaped([part[0] for part in parts], manifest.pooled)
        unit = _shaped([part[1] for part in parts], manifest.pooled)
        means = [part[2] for part in parts if part[2] is not None]
        raw = _shaped(means, manifest.pooled) if raw_mean else None
        for tensor in (features, unit, own, *(() if raw is None else (raw,))):
            hand_out(tensor)
    origins = tuple(origin for _, origin in drawn)
    return SmoothedTensors(features, unit, own, tuple(chosen), origins, n0, function, raw)


def _shaped(parts: list[Tensor], pooled: bool) -> Tensor:
    """Join groups of images; drop the token axis of pooled features."""
    whole = torch.cat(parts)
    return whole[:, 0] if pooled else whole


def _check(images: Tensor, shape: tuple[int, int, int], device: torch.device) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"wanted a torch tensor, got {type(images).__name__}; `encode` takes everything else")
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
        wanted = ", ".join(map(str, shape))
        raise ImageError(
            f"wanted images on the grid, uint8 [B, {wanted}], got {images.dtype} {list(images.shape)}; "
            "`encode` decodes and fits other ones"
        )
    if images.device != device:
        raise ImageError(f"wanted images on {device}, got {images.device}; move them with .to()")


def _items(source: Seeds, images: Tensor, fresh: bool) -> list[GridImage]:
    """Return what seeds are drawn for: the pixels matter only where a secret makes seeds from them."""
    if fresh and source.from_pixels:
        pixels = images.cpu().numpy()
    else:
        pixels = np.broadcast_to(np.zeros((), np.uint8), images.shape)
    return [GridImage(image, None, {}) for image in pixels]
