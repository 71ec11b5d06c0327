"""The smoothed encoder in torch, for evaluation and attacks: what the engine computes, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fsfast.models import OneStepPurifier, SmoothnessMapper
from train.encoder import VanillaEncoder
from train.loop import step_generator
from train.losses import add_noise

# Noisy images that run through the networks at a time.
_ROWS = 256


@dataclass(frozen=True)
class Defence:
    """One row of the ablation.

    Attributes:
        name: for tables.
        sigma: noise level in [0,1] pixel units.
        encoder: the vanilla encoder.
        purifier, mapper: or None.
    """

    name: str
    sigma: float
    encoder: VanillaEncoder
    purifier: OneStepPurifier | None = None
    mapper: SmoothnessMapper | None = None

    def tokens(self, noisy: Tensor) -> Tensor:
        """Return g(v): [B, 3, S, S] noisy grid levels → [B, L, D]."""
        pixels = noisy / 255.0 if self.purifier is None else self.purifier(noisy)
        tokens = self.encoder.tokens(pixels)
        return tokens if self.mapper is None else self.mapper(tokens, self.sigma)

    def unit(self, noisy: Tensor) -> Tensor:
        """Return f(v), the unit feature: every token divided by its norm and by √L."""
        tokens = self.tokens(noisy)
        return F.normalize(tokens, dim=-1) / tokens.shape[1] ** 0.5


def clean_unit(encoder: VanillaEncoder, levels: Tensor) -> Tensor:
    """Return the unit feature of images without noise by the vanilla encoder: the paper's anchor."""
    return Defence("clean", 0.0, encoder).unit(levels)


@torch.no_grad()
def noisy_units(defence: Defence, levels: Tensor, samples: int, seed: int, purpose: str) -> Iterator[Tensor]:
    """Yield the unit features of one noise for all images, `samples` times.

    Args:
        defence: what computes them.
        levels: [B, 3, S, S] grid levels.
        samples: noises per image.
        seed, purpose: of the noise; different purposes have independent noise.
    """
    for sample in range(samples):
        generator = step_generator(seed, purpose, sample, levels.device)
        z = torch.randn(levels.shape, generator=generator, device=levels.device)
        noisy = add_noise(levels, z, defence.sigma)
        yield torch.cat([defence.unit(part) for part in noisy.split(_ROWS)])


def smoothed(defence: Defence, levels: Tensor, samples: int, seed: int, purpose: str) -> Tensor:
    """Return the direction that would be served: the mean of the unit features, normalised per token.

    Args:
        defence, levels, samples, seed, purpose: see `noisy_units`.

    Returns:
        [B, L, D], of norm 1 over L·D.
    """
    mean = torch.stack(list(noisy_units(defence, levels, samples, seed, purpose))).mean(0)
    return F.normalize(mean, dim=-1) / mean.shape[1] ** 0.5


def class_scores(unit: Tensor, class_features: Tensor) -> Tensor:
    """Return ⟨f, w_k⟩ with w_k the class's direction repeated over the tokens: [B, L, D] → [B, K]."""
    directions = F.normalize(class_features, dim=-1) / unit.shape[1] ** 0.5
    return unit.sum(1) @ directions.T


def predict(unit: Tensor, class_features: Tensor) -> Tensor:
    """Return the class with the largest score: [B, L, D] → [B] int64."""
    return class_scores(unit, class_features).argmax(1)
