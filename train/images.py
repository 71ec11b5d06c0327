"""Images of a folder as training data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fsfast.errors import ImageError
from fsfast.images.decoding import decode_file
from fsfast.images.grid import Grid, GridImage, to_grid_image

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Files that are looked at between two movements of the progress bar.
_CHUNK = 256
_SHOWN = 3


class ImageFolder:
    """All images below a folder in a random order, decoded and fitted to the grid by the package's image code.

    A batch depends on the seed and its number alone. In every pass over the folder each image comes once.
    Every file is decoded once at the start, so that a damaged one is found before the training and not in its midst:
    2 ms for a photograph of 640×480, on as many threads as torch has.

    Args:
        folder: searched with its subfolders.
        grid: size and fit of the images.
        seed: of the order.
        device: where batches go.
        held_out: share of the images that batches leave out, chosen by their names alone; a file that is added moves no
            other.

    Raises:
        ValueError: no images there, or on one side of the split, or some cannot be decoded; they are named.
    """

    def __init__(
        self, folder: Path, grid: Grid, seed: int, device: torch.device, held_out: float = 0.0
    ) -> None:
        paths = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()
        )
        if not paths:
            raise ValueError(f"wanted a folder of images ({', '.join(_SUFFIXES)}), found none in {folder}")
        self.folder, self.grid, self.seed, self.device = folder, grid, seed, device
        places = {path: _place(path.relative_to(folder)) for path in paths}
        self.held_out = [path for path in paths if places[path] < held_out]
        self.paths = [path for path in paths if places[path] >= held_out]
        if held_out and not (self.held_out and self.paths):
            raise ValueError(
                f"wanted images on both sides of --held-out {held_out:g}, got {len(self.held_out)} of {len(paths)} "
                "held out; choose another share, or take more images"
            )
        # sha256 over the names and contents of all files, hex.
        self.digest = _digest(folder, paths)
        if held_out:
            self.digest = hashlib.sha256(f"{self.digest} {held_out}".encode()).hexdigest()

    def batch(self, number: int, count: int) -> Tensor:
        """Return [count, 3, H, W] float32 of whole numbers 0…255.

        Raises:
            ImageError: a file that changed since the start cannot be decoded; it is named.
        """
        places = range(number * count, (number + 1) * count)
        return self.read([self._path(place) for place in places])

    def read(self, paths: Sequence[Path]) -> Tensor:
        """Return images of the folder as `batch` does; raises as `batch`."""
        pixels = [to_grid_image(path, self.grid).pixels for path in paths]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return images.to(self.device, torch.float32)

    def _path(self, place: int) -> Path:
        epoch, index = divmod(place, len(self.paths))
        return self.paths[_order(self.seed, epoch, len(self.paths))[index]]


def levels_of(image: GridImage, device: torch.device | str = "cpu") -> Tensor:
    """Return an image's grid levels, [1, 3, H, W] float32 of whole numbers 0…255."""
    return torch.from_numpy(image.pixels.copy()).permute(2, 0, 1)[None].to(device, torch.float32)


def _place(name: Path) -> float:
    """A number in [0, 1) that depends on a file's name alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _digest(folder: Path, paths: Sequence[Path]) -> str:
    total, bad = hashlib.sha256(), []
    bar = tqdm(total=len(paths), desc="images", mininterval=5.0)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = paths[first : first + _CHUNK]
            for path, (sha256, complaint) in zip(chunk, pool.map(_look_at, chunk), strict=True):
                total.update(os.fsencode(path.relative_to(folder)) + f"\n{sha256}\n".encode())
                bad += [(path, complaint)] if complaint else []
            bar.update(len(chunk))
    if bad:
        names = ", ".join(str(path) for path, _ in bad[:_SHOWN]) + (", …" if len(bad) > _SHOWN else "")
        raise ValueError(
            f"wanted images that can be decoded, got {len(bad)} of {len(paths)} that cannot: {names}; mend or remove "
            f"them. The first: {bad[0][1]}"
        )
    return total.hexdigest()


def _look_at(path: Path) -> tuple[str, str]:
    """The sha256 of a file, or what is wrong with it."""
    try:
        return decode_file(str(path))[1]["sha256"], ""
    except ImageError as error:
        return "", " ".join(str(error).split())


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
