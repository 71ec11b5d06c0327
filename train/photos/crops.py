"""Crops of random place and size of the assembled pictures: what the photo engine's purifier is trained on."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from train.photos.assembling import read_manifest

# Of the pictures in a batch; what is left are photographs.
_SHARES = {"drawing": 0.10, "stamp": 0.05}
# Shorter sides of what is kept in memory, in pixels, and of crops, as a share of the picture's.
_KEPT, _SMALLEST = 448, 0.45
# Brightness, contrast and saturation of a crop are multiplied by 1 ± this.
_JITTER = 0.25
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


class RandomCrops:
    """An endless source of crops; a batch depends on the seed and its number alone.

    Args:
        folder: made by `python -m train photo-data`; its pictures that are held out are not read.
        seed: of everything random.
        device: where batches go.

    Raises:
        ValueError: there is no such folder, or it has no photographs.
    """

    def __init__(self, folder: Path, seed: int, device: torch.device) -> None:
        pictures = [each for each in read_manifest(folder) if each.split == "train"]
        of_kind = {kind: [p for p in pictures if p.kind == kind] for kind in ("photograph", *_SHARES)}
        if not of_kind["photograph"]:
            raise ValueError(f"wanted photographs for training, found none in {folder}")
        self.seed, self.device = seed, device
        # sha256 over kinds and contents of all pictures, hex.
        listed = [f"{kind} {each.sha256}\n" for kind, found in of_kind.items() for each in found]
        self.digest = hashlib.sha256("".join(listed).encode()).hexdigest()
        self._pictures = {}
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for kind, found in of_kind.items():
                paths = [folder / each.file for each in found]
                bar = tqdm(pool.map(_read, paths), total=len(paths), desc=f"{kind}s", mininterval=5.0)
                self._pictures[kind] = list(bar)

    def batch(self, number: int, count: int, side: int) -> Tensor:
        """Return [count, 3, side, side] float32 of whole numbers 0…255.

        Args:
            number: of the batch; the same number gives the same crops.
            count: crops.
            side: in pixels.
        """
        rng = np.random.default_rng([self.seed, side, number])
        crops = np.stack([self._crop(rng, side) for _ in range(count)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).to(self.device, torch.float32)

    def patches(self, number: int, count: int, side: int, crop: int) -> Tensor:
        """Return squares of `side` pixels, four of each crop of `crop` pixels: [count, 3, side, side], see `batch`."""
        crops = self.batch(number, -(-count // 4), crop)
        rng = np.random.default_rng([self.seed, side, crop, number])
        places = rng.integers(0, crop - side + 1, (count, 2))
        return torch.stack(
            [crops[i // 4, :, y : y + side, x : x + side] for i, (y, x) in enumerate(places.tolist())]
        )

    def _crop(self, rng: np.random.Generator, side: int) -> np.ndarray:
        shares = [1 - sum(_SHARES.values()), *_SHARES.values()]
        kind = str(rng.choice(["photograph", *_SHARES], p=shares))
        pictures = self._pictures[kind] or self._pictures["photograph"]
        picture = pictures[int(rng.integers(len(pictures)))]
        height, width = picture.shape[:2]
        size = max(1, round(min(height, width) * rng.uniform(_SMALLEST, 1.0)))
        y, x = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        square = Image.fromarray(picture[y : y + size, x : x + size])
        crop = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        brightness, contrast, saturation = 1 + _JITTER * rng.uniform(-1, 1, 3)
        grey = (crop @ _GREY)[..., None]
        crop = grey + saturation * (crop - grey)
        mean = crop.mean()
        return np.rint((brightness * (mean + contrast * (crop - mean))).clip(0, 255))


def _read(path: Path) -> np.ndarray:
    """A picture on white, its shorter side at most _KEPT pixels: [H, W, 3] uint8."""
    with Image.open(path) as image:
        # Only as much of a large JPEG is decoded as is wanted.
        image.draft("RGB", (2 * _KEPT, 2 * _KEPT))
        if image.has_transparency_data:
            whole = image.convert("RGBA")
            flat = Image.new("RGBA", whole.size, "white")
            flat.alpha_composite(whole)
            image = flat
        flat = image.convert("RGB")
        share = min(1.0, _KEPT / min(flat.size))
        size = (max(1, round(flat.width * share)), max(1, round(flat.height * share)))
        return np.asarray(flat.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
