"""The study data: digits drawn in colour with a random pose on photographic grounds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from train.glyphs import CLASSES, DIGITS, load_glyphs
from train.tiles import Split, cut

_LUMINANCE = (0.299, 0.587, 0.114)
# A glyph differs from its ground by at least this much luminance.
_CONTRAST = 0.45
_TILES_PER_SOURCE: dict[Split, int] = {"train": 400, "test": 60}


@dataclass(frozen=True)
class Batch:
    """Images with their classes.

    Attributes:
        images: [B, 3, S, S] float32 of whole numbers 0…255: what a uint8 grid holds.
        labels: [B] int64.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """Return the sha256 of pixels and labels."""
        digest = hashlib.sha256(self.images.to("cpu", torch.uint8).numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


class StudyData:
    """An endless source of freshly drawn images; a batch depends on the seed and its number alone.

    Args:
        split: glyphs and grounds of the two splits are disjoint.
        seed: of everything random.
        size: height and width of an image in pixels.
        device: where images are drawn.

    Raises:
        BackendUnavailable: scikit-image or scikit-learn is missing.
    """

    def __init__(self, split: Split, seed: int, size: int = 64, device: str | torch.device = "cpu") -> None:
        glyphs = load_glyphs(split, seed)
        self.split: Split = split
        self.seed = seed
        self.size = size
        self.device = torch.device(device)
        self.glyphs_of = [np.flatnonzero(glyphs.labels == label) for label in range(CLASSES)]
        self.masks = torch.from_numpy(glyphs.masks).to(self.device)
        self.tiles = torch.from_numpy(cut(split, _TILES_PER_SOURCE[split], size, seed)).to(self.device)

    def batch(self, number: int, count: int, texture: float = 1.0, classes: int = CLASSES) -> Batch:
        """Draw images.

        Args:
            number: of the batch; the same number gives the same images.
            count: images.
            texture: 1 for the grounds as they are, 0 for plain ones of their mean colour.
            classes: labels are uniform in 0…classes−1; `DIGITS` leaves the star out.
        """
        rng = np.random.default_rng([self.seed, ("train", "test").index(self.split), 4, number])
        labels = rng.integers(0, classes, count)
        chosen = np.array(
            [self.glyphs_of[label][int(rng.integers(len(self.glyphs_of[label])))] for label in labels]
        )
        masks = self._posed(self.masks[torch.from_numpy(chosen).to(self.device)], rng)
        grounds = self._grounds(count, texture, rng)
        colours = self._colours(masks, grounds, rng)
        images = grounds + masks * (colours - grounds)
        levels = (images * 255.0).round().clamp(0.0, 255.0)
        return Batch(levels, torch.from_numpy(labels).to(self.device))

    def _send(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(self.device, torch.float32)

    def _posed(self, masks: Tensor, rng: np.random.Generator) -> Tensor:
        """[B, 40, 40] → [B, 1, S, S]: turned up to 15°, sheared, moved, 68 to 88 % of the image high."""
        count = len(masks)
        turn = np.deg2rad(rng.uniform(-15, 15, count))
        shear = rng.uniform(-0.15, 0.15, count)
        width, height = 1.0 / rng.uniform(0.85, 1.1, (2, count))
        shift = rng.uniform(-0.1, 0.1, (2, count))
        cos, sin = np.cos(turn), np.sin(turn)
        rows = [
            [width * cos, width * (sin + shear * cos), shift[0]],
            [-height * sin, height * (cos - shear * sin), shift[1]],
        ]
        theta = self._send(np.array(rows).transpose(2, 0, 1))
        grid = _affine_grid(theta, self.size)
        return F.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False).clamp(0.0, 1.0)

    def _grounds(self, count: int, texture: float, rng: np.random.Generator) -> Tensor:
        """[B, 3, S, S] in [0, 1]: tiles, mirrored and turned, with random contrast and tint."""
        chosen = torch.from_numpy(rng.integers(0, len(self.tiles), count)).to(self.device)
        tiles = self.tiles[chosen].float() / 255.0
        flips = rng.random((3, count)) < 0.5
        for flip, dims in zip(flips, ((3,), (2,), None), strict=True):
            other = tiles.transpose(2, 3) if dims is None else tiles.flip(dims)
            tiles = torch.where(torch.from_numpy(flip).to(self.device)[:, None, None, None], other, tiles)
        mean = tiles.mean((2, 3), keepdim=True)
        contrast = self._send(rng.uniform(0.5, 1.0, (count, 1, 1, 1))) * texture
        tint = self._send(rng.uniform(-0.1, 0.1, (count, 3, 1, 1)))
        return (mean + tint + contrast * (tiles - mean)).clamp(0.0, 1.0)

    def _colours(self, masks: Tensor, grounds: Tensor, rng: np.random.Generator) -> Tensor:
        """[B, 3, 1, 1] in [0, 1]: random colours, whitened or darkened until they stand out."""
        colours = self._send(rng.uniform(0.0, 1.0, (len(masks), 3, 1, 1)))
        weights = torch.tensor(_LUMINANCE, device=self.device).reshape(1, 3, 1, 1)
        under = (grounds * weights).sum(1, keepdim=True)
        under = (under * masks).sum((2, 3), keepdim=True) / masks.sum((2, 3), keepdim=True).clamp_min(1.0)
        own = (colours * weights).sum(1, keepdim=True)
        whiten = ((under + _CONTRAST - own) / (1.0 - own).clamp_min(1e-3)).clamp(0.0, 1.0)
        keep = ((under - _CONTRAST) / own.clamp_min(1e-3)).clamp(0.0, 1.0)
        return torch.where(under < 0.5, colours + whiten * (1.0 - colours), colours * keep)


def _affine_grid(theta: Tensor, size: int) -> Tensor:
    """Return what F.affine_grid returns for [B, 2, 3]: [B, S, S, 2].

    Without a matrix library, whose last bits differ from processor to processor: they would move single pixels of the
    study's images by a level.
    """
    steps = torch.linspace(-1, 1, size, device=theta.device) * (size - 1) / size
    x, y = steps[None, :, None], steps[:, None, None]
    along, down, shift = theta[:, None, None].unbind(-1)
    return x * along + y * down + shift


def study_set(seed: int, count: int = 200, size: int = 64) -> Batch:
    """Return the test images of the study, on the CPU: digits alone, none of them stars."""
    return StudyData("test", seed, size).batch(0, count, classes=DIGITS)
