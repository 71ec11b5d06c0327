"""Images of a folder as training data."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fsfast.images import Grid, to_grid_image

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageFolder:
    """All images below a folder in a random order, decoded and fitted to the grid by the package's image code.

    A batch depends on the seed and its number alone. In every pass over the folder each image comes once.

    Args:
        folder: searched with its subfolders.
        grid: size and fit of the images.
        seed: of the order.
        device: where batches go.

    Raises:
        ValueError: no images there.
    """

    def __init__(self, folder: Path, grid: Grid, seed: int, device: torch.device) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not self.paths:
            raise ValueError(f"wanted a folder of images ({', '.join(_SUFFIXES)}), found none in {folder}")
        self.folder, self.grid, self.seed, self.device = folder, grid, seed, device

    def digest(self) -> str:
        """Return a sha256 over the names and sizes of all files."""
        lines = (f"{path.relative_to(self.folder)} {path.stat().st_size}\n" for path in self.paths)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def batch(self, number: int, count: int) -> Tensor:
        """Return [count, 3, H, W] float32 of whole numbers 0…255.

        Raises:
            ImageError: a file cannot be decoded; it is named.
        """
        places = range(number * count, (number + 1) * count)
        pixels = [to_grid_image(self._path(place), self.grid).pixels for place in places]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return images.to(self.device, torch.float32)

    def _path(self, place: int) -> Path:
        epoch, index = divmod(place, len(self.paths))
        return self.paths[_order(self.seed, epoch, len(self.paths))[index]]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
