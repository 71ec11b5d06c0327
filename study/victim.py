"""An engine's networks in torch, as attacks see them: every stage with gradients, and the noise that is served."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fsfast.engine.chain import levels_alone, scaled_noise
from fsfast.engine.classes import ClassHead, load_classes
from fsfast.engine.engine import Engine
from fsfast.errors import EngineError
from fsfast.kernels import noisy_batch
from fsfast.kernels.types import NoiseTables
from fsfast.models.efficientnet import EfficientNetFeatures
from fsfast.models.torch_function import TorchFunction
from fsfast.models.vit import ViTFeatures
from fsfast.runtime.sampling import Stream, micro_batches
from train.loop import step_generator
from train.losses import add_noise

# Noisy images whose activations are kept for the gradient at a time.
ROWS = 64


@dataclass(frozen=True, eq=False)
class Noise:
    """m noises for every image of a batch.

    Attributes:
        count: m.
        add: (images [B, 3, H, W], sample < m) → the images under that noise, with gradients.
    """

    count: int
    add: Callable[[Tensor, int], Tensor]


class Victim:
    """What is attacked.

    Args:
        function: the networks.
        classes: of the engine, or None.
        pooled: whether features are one vector per image.
        noise: tables whose values are levels, for noise that is served; None: there is none of it.
        rows: noisy images at a time.
        bf16: compute networks in bfloat16.
    """

    def __init__(
        self,
        function: TorchFunction,
        classes: ClassHead | None,
        *,
        pooled: bool,
        noise: NoiseTables | None = None,
        rows: int = ROWS,
        bf16: bool = False,
    ) -> None:
        self.function, self.classes, self.pooled, self.rows, self.bf16 = function, classes, pooled, rows, bf16
        self.sigma = function.sigma
        self._noise = noise
        found = function.resize.mean
        self.device = found.device
        self._class_rows = None if classes is None else torch.from_numpy(classes.rows).float().to(self.device)

    @classmethod
    def of(
        cls, engine: Engine, device: torch.device | str = "cpu", *, rows: int = ROWS, bf16: bool = False
    ) -> Victim:
        """Return the victim that an engine is.

        Raises:
            EngineError: it has no networks in torch.
        """
        manifest = engine.manifest
        if not manifest.known_in_torch:
            raise EngineError(
                f"{engine.path} ({manifest.name}): wanted an engine whose networks can be built in torch, since "
                "attacks follow gradients; its encoder came as an ONNX graph, which has none. Export it from its "
                "checkpoint by a recipe"
            )
        function = TorchFunction(engine).to(device)
        tables = levels_alone(scaled_noise(engine.thresholds, None, manifest.mean, manifest.std))
        classes = load_classes(engine)
        return cls(function, classes, pooled=manifest.pooled, noise=tables, rows=rows, bf16=bf16)

    @property
    def has_purifier(self) -> bool:
        """Whether there is a purifier."""
        return self.function.denoise is not None

    def clean(self, levels: Tensor) -> Tensor:
        """Return f_e of images, the encoder alone without noise: [B, 3, H, W] → [B, L, D] of norm 1."""
        return _unit(self._encoded(levels, self.function.networks["encoder"]))

    def with_tokens(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return f_e of images, and the encoder's tokens: [B, L, D] of norm 1, and [B, N, D] as they are.

        Where features are pooled the tokens are those before the pooling, and before a last norm.

        Raises:
            EngineError: an encoder that hides them.
        """
        encoder = self.function.networks["encoder"]
        if not self.pooled:
            tokens = self._encoded(levels, encoder)
            return _unit(tokens), tokens
        if not isinstance(encoder, (ViTFeatures, EfficientNetFeatures)):
            raise EngineError(
                f"{type(encoder).__name__} pools its tokens and hides them; attack its global features"
            )
        unpooled = copy.copy(encoder)
        unpooled.output = "tokens"
        if isinstance(unpooled, ViTFeatures):
            unpooled.applies_ln_post = False
            return self.clean(levels), self._encoded(levels, unpooled)
        tokens = self._encoded(levels, unpooled)
        return _unit(tokens.mean(1, keepdim=True)), tokens

    def through(self, levels: Tensor) -> Tensor:
        """Return f of images as they are, all networks without noise: [B, L, D]."""
        return self._f(levels)

    def purified(self, noisy: Tensor) -> Tensor:
        """Return what the purifier makes of noisy images, [M, 3, H, W] in [0, 1]."""
        with self._autocast():
            return self.function.purified(noisy).float()

    def mean(self, levels: Tensor, noise: Noise) -> Tensor:
        """Return the mean of f over noises: [B, L, D] of norm ≤ 1.

        Where noises do not fit into `rows` at once, networks run again for the gradient, and memory stays bounded.
        """
        together = max(1, self.rows // len(levels))
        groups = [range(i, min(i + together, noise.count)) for i in range(0, noise.count, together)]

        def summed(images: Tensor, samples: Sequence[int]) -> Tensor:
            noisy = torch.cat([noise.add(images, sample) for sample in samples])
            return self._f(noisy).unflatten(0, (len(samples), len(images))).sum(0)

        again = len(groups) > 1 and levels.requires_grad
        total = torch.zeros((), device=levels.device)
        for samples in groups:
            part = (
                checkpoint(summed, levels, samples, use_reentrant=False) if again else summed(levels, samples)
            )
            total = total + part
        return total / noise.count

    def fresh(self, count: int, seed: int, purpose: str, number: int = 0) -> Noise:
        """Return noises that depend on seed, purpose and number alone, rounded to levels as the engine's."""

        def add(levels: Tensor, sample: int) -> Tensor:
            generator = step_generator(seed, purpose, number * count + sample, levels.device)
            # Every image of a batch has noise of its own.
            z = torch.randn(levels.shape, generator=generator, device=levels.device)
            return add_noise(levels, z, self.sigma)

        return Noise(count, add)

    def served_noise(self, seeds: Sequence[int], count: int, shape: tuple[int, int]) -> Noise:
        """Return the noises that `SmoothedEncoder.encode` draws under known seeds, one of them per image.

        Args:
            seeds: of the images.
            count: n0.
            shape: height and width of the grid.
        """
        assert self._noise is not None
        # A pixel of level 0 under noise is the noise.
        black = np.zeros((len(seeds), *shape, 3), np.uint8)
        (rows,) = micro_batches(list(seeds), count, len(seeds) * count)
        values = noisy_batch(black, rows, int(Stream.SERVING), self._noise)
        drawn = torch.from_numpy(values).unflatten(0, (len(seeds), count)).to(self.device)
        return Noise(count, lambda levels, sample: levels + drawn[:, sample])

    @torch.no_grad()
    def smoothed(self, levels: Tensor, noise: Noise) -> Tensor:
        """Return the direction of the mean over noises, [B, L, D]: tokens of norm 1/√L."""
        return _unit(self.mean(levels, noise))

    def scores(self, units: Tensor) -> Tensor:
        """Return the classes' scores ⟨f, w_k⟩ of [B, L, D]: [B, K].

        Raises:
            EngineError: the engine has no classes.
        """
        if self._class_rows is None:
            raise EngineError("this engine has no classes; give an image as target")
        return units.sum(1) @ self._class_rows.T / units.shape[1] ** 0.5

    def _encoded(self, levels: Tensor, encoder: torch.nn.Module) -> Tensor:
        with self._autocast():
            tokens: Tensor = encoder(self.function.resize(levels / 255.0))
        return tokens.float()

    def _f(self, noisy: Tensor) -> Tensor:
        with self._autocast():
            return self.function(noisy).float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def _unit(tokens: Tensor) -> Tensor:
    """Return tokens divided by their norms and by √L, so that the whole has norm 1."""
    return F.normalize(tokens, dim=-1, eps=1e-30) / tokens.shape[1] ** 0.5
