"""The held-out photographs and the functions of the photo engines, as all parts of the study see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fsfast.engine.classes import load_classes
from fsfast.engine.engine import Engine
from fsfast.images.grid import GridImage, to_grid_image
from fsfast.models.torch_function import TorchFunction
from train.loop import step_generator
from train.losses import add_noise
from train.photos.assembling import Picture, read_manifest
from train.photos.purifier import psnr

SEED = 0
# Noisy images that run through the networks at a time.
_ROWS = 25
# Sets of samples whose tokens are remembered: a photograph's, and those that are served.
_KEPT = 2
# Training photographs whose mean feature is the centre.
_CENTRE = 200


@dataclass(frozen=True)
class Photographs:
    """Photographs of `python -m train photo-data` that no network was trained on, in an order that says nothing.

    Attributes:
        data: the folder.
        held_out: they.
        centre: photographs of the training, for the mean feature.
    """

    data: Path
    held_out: tuple[Picture, ...]
    centre: tuple[Picture, ...]

    @classmethod
    def of(cls, data: Path) -> Photographs:
        """Read a folder's manifest; raises OSError or ValueError where there is none."""
        pictures = [each for each in read_manifest(data) if each.kind == "photograph"]
        ordered = sorted(pictures, key=lambda each: each.sha256)
        held_out = tuple(each for each in ordered if each.split == "held-out")
        return cls(data, held_out, tuple(each for each in ordered if each.split == "train")[:_CENTRE])

    def image(self, picture: Picture, engine: Engine) -> GridImage:
        """Return a photograph on an engine's grid."""
        return to_grid_image(self.data / picture.file, engine.manifest.grid, name=picture.name)


class Networks:
    """The networks of a pooled engine in torch.

    Args:
        engine: with classes.
        bf16: compute in bfloat16.
    """

    def __init__(self, engine: Engine, bf16: bool) -> None:
        self.engine, self.sigma, self.bf16 = engine, engine.manifest.sigma, bf16
        self.choices = choices(engine.manifest.stages)
        self._functions = {stages: _last(TorchFunction(engine, stages)) for stages in self.choices}
        # Tokens of the last samples, by what they depend on: a mapper needs no others than the row without it.
        self._kept: dict[object, Tensor] = {}
        classes = load_classes(engine)
        assert classes is not None
        self.classes = classes
        self._rows = torch.from_numpy(classes.rows).float()

    def unit(self, levels: Tensor, stages: tuple[str, ...]) -> Tensor:
        """Return f of [M, 3, H, W] grid values, with gradients: [M, D] of norm 1, float32."""
        return self._refined(self._tokens(levels, stages), stages)

    def _tokens(self, levels: Tensor, stages: tuple[str, ...]) -> Tensor:
        """What the encoder makes of grid values: [M, 1, D] float32."""
        function = self._functions[stages]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            pixels = function.purified(levels.contiguous(memory_format=torch.channels_last))
            tokens: Tensor = function.networks["encoder"](function.resize(pixels))
        return tokens.float()

    def _refined(self, tokens: Tensor, stages: tuple[str, ...]) -> Tensor:
        """Unit features [M, D] of the encoder's tokens [M, 1, D]."""
        if "mapper" in stages:
            tokens = self._functions[stages].networks["mapper"](tokens)
        return F.normalize(tokens[:, 0], dim=-1)

    def clean(self, levels: Tensor) -> Tensor:
        """Return the unit features of the encoder alone, without noise."""
        return self.unit(levels, ("encoder",))

    @torch.no_grad()
    def samples(self, levels: Tensor, stages: tuple[str, ...], count: int, stream: str) -> Tensor:
        """Return f of an image [1, 3, H, W] under `count` noises of a stream: [count, D]."""
        wanted = (stream, count, "purifier" in stages, levels.numpy().tobytes())
        if wanted not in self._kept:
            found = []
            for first in range(0, count, _ROWS):
                repeated = levels.expand(min(_ROWS, count - first), -1, -1, -1)
                found.append(self._tokens(self.noisy(repeated, f"{stream} {first}"), stages))
            self._kept = dict([*self._kept.items()][1 - _KEPT :]) | {wanted: torch.cat(found)}
        return self._refined(self._kept[wanted], stages)

    def noisy(self, levels: Tensor, stream: str) -> Tensor:
        """Return images [M, 3, H, W] under fresh noise each."""
        z = torch.randn(levels.shape, generator=step_generator(SEED, stream, 0, levels.device))
        return add_noise(levels, z, self.sigma)

    def served(self, levels: Tensor, stages: tuple[str, ...], n0: int, stream: str) -> Tensor:
        """Return the smoothed direction of n0 samples of an image: [1, D]."""
        return F.normalize(self.samples(levels, stages, n0, stream).mean(0, keepdim=True), dim=-1)

    @torch.no_grad()
    def psnr(self, levels: Tensor, stages: tuple[str, ...], stream: str) -> float:
        """Return the peak signal-to-noise ratio, in dB, of one noisy image as the encoder of these stages sees it."""
        noisy = self.noisy(levels, stream).contiguous(memory_format=torch.channels_last)
        seen = self._functions[stages].purified(noisy).clamp(0.0, 1.0)
        return psnr(seen, levels / 255.0)

    def scores(self, unit: Tensor) -> Tensor:
        """Return the classes' scores [M, K] of unit features [M, D]."""
        return unit @ self._rows.T

    def probability(self, levels: Tensor) -> Tensor:
        """Return the softmax [M, K] of the classes' scores of the encoder's features as they are, without noise."""
        function = self._functions[("encoder",)]
        with torch.no_grad():
            features = function.networks["encoder"](function.resize(levels / 255.0))[:, 0]
        return F.softmax(self.scores(features), -1)


def choices(stages: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of the ablation: the encoder alone, with the purifier, and with the mapper behind it."""
    others = [("encoder",), ("purifier", "encoder"), ("purifier", "encoder", "mapper")]
    return [choice for choice in others if set(choice) <= set(stages)]


def _last(function: TorchFunction) -> TorchFunction:
    return function.to(memory_format=torch.channels_last)
