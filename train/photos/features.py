"""The encoder's answers to training crops, with and without noise behind the purifier: what a mapper is fitted to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fsfast.files import file_sha256
from fsfast.images.grid import Grid, to_grid_image
from fsfast.models import OneStepPurifier
from train.checkpoint import write_atomically
from train.images import levels_of
from train.loop import step_generator
from train.losses import add_noise
from train.photos.assembling import Picture, read_manifest
from train.photos.purifier import FrozenClassifier

# Of the photographs, those whose sha256 says so: the mapper is chosen on them, and not fitted to them.
_TUNED_ON = 4


@dataclass(frozen=True)
class Crop:
    """A training crop.

    Attributes:
        path: its file.
        tuning: whether it is one of those that choose the mapper.
    """

    path: Path
    tuning: bool


@dataclass(frozen=True)
class Features:
    """Tokens of P crops, float16.

    Attributes:
        clean: [P, L, D], without noise.
        noisy: [P, N, L, D], purified, under N noises.
        tuning: [P] bool, see `Crop`.
    """

    clean: Tensor
    noisy: Tensor
    tuning: Tensor

    def part(self, chosen: Tensor) -> Features:
        """Those of some crops, [P] bool."""
        return Features(self.clean[chosen], self.noisy[chosen], self.tuning[chosen])

    def pooled(self) -> Features:
        """The means of the tokens, as L = 1; float32."""
        means = (each.float().mean(-2, keepdim=True) for each in (self.clean, self.noisy))
        return Features(*means, self.tuning)


def training_crops(data: Path) -> list[Crop]:
    """Return the crops of a folder of `python -m train photo-data`; those of a picture are on one side of the split.

    Raises:
        ValueError: there are no photographs on one of the sides.
    """
    pictures = [each for each in read_manifest(data) if each.split == "train"]
    crops = [
        Crop(data / "crops" / each.kind / f"{Path(each.file).stem}-{number}.png", _tuning(each))
        for each in pictures
        for number in range(each.crops)
    ]
    if len({crop.tuning for crop in crops}) < 2:
        raise ValueError(
            f"wanted training photographs to fit to and others to choose by, got too few in {data}"
        )
    return crops


def _tuning(picture: Picture) -> bool:
    return picture.kind == "photograph" and int(picture.sha256, 16) % _TUNED_ON == 0


class Extraction:
    """How the features of a run are made.

    Args:
        purifier, encoder: frozen.
        sigma: noise level in [0, 1] pixel units, that the purifier is for.
        grid: of the images.
        noises: N of a crop.
        seed: of them.
        bf16: compute the networks in bfloat16.
        weights: digests of both networks' files.
    """

    def __init__(
        self,
        purifier: OneStepPurifier,
        encoder: FrozenClassifier,
        sigma: float,
        grid: Grid,
        noises: int,
        seed: int,
        bf16: bool,
        weights: Sequence[str],
    ) -> None:
        self.purifier = purifier.to(memory_format=torch.channels_last)
        self.encoder, self.sigma, self.grid = encoder, sigma, grid
        self.noises, self.seed, self.bf16 = noises, seed, bf16
        self._weights = list(weights)

    def digest(self, crops: Sequence[Crop]) -> str:
        """Return a sha256 that changes with everything that features depend on; raises OSError without a crop."""
        record = [
            *(self.sigma, self.noises, self.seed, self.bf16, self.grid.to_record(), self._weights),
            [(crop.path.name, file_sha256(crop.path)) for crop in crops],
        ]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def of(self, crops: Sequence[Crop], path: Path) -> Features:
        """Return the features of crops, from a file where an earlier run has left them there; else write it.

        Args:
            crops: P of them.
            path: of the file.

        Raises:
            ImageError: a crop is no picture.
            OSError: a crop is missing, or the disk is full.
        """
        tuning, digest = torch.tensor([crop.tuning for crop in crops]), self.digest(crops)
        stored = _read(path, digest)
        if stored is None:
            clean, noisy = zip(
                *(self._one(crop) for crop in tqdm(crops, desc="crops", mininterval=5.0)), strict=True
            )
            stored = {"clean": torch.stack(clean), "noisy": torch.stack(noisy)}
            write_atomically(path, lambda temporary: save_file(stored, temporary, {"digest": digest}))
        return Features(stored["clean"], stored["noisy"], tuning)

    @torch.no_grad()
    def _one(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """Tokens of a crop, [L, D], and of its noisy images, [N, L, D]."""
        levels = levels_of(to_grid_image(crop.path, self.grid))
        repeated = levels.expand(self.noises, -1, -1, -1)
        generator = step_generator(self.seed, f"mapper {crop.path.name}", 0, levels.device)
        noisy = add_noise(repeated, torch.randn(repeated.shape, generator=generator), self.sigma)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            purified = self.purifier(_channels_last(noisy))
            tokens = [
                self.encoder(_channels_last(pixels))[1].half()
                for pixels in (levels / 255.0, purified.float())
            ]
        return tokens[0][0], tokens[1]


def _read(path: Path, digest: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("digest") != digest:
                return None
            return {name: file.get_tensor(name) for name in ("clean", "noisy")}
    except (FileNotFoundError, SafetensorError):
        return None


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
