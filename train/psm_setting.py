"""What both stages of `python -m train psm` work with: sizes, images, the frozen encoder, and what a run depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.networks import encoder_record, encoder_size
from export.recipe import Recipe
from fsfast.models import DenoiserConfig
from fsfast.models.resize import Resize
from train.config import Schedule
from train.images import ImageFolder
from train.loop import step_generator
from train.losses import add_noise

_PURIFIER = Schedule(steps=12_000, batch=4, rate=5e-5, weight_decay=0.01)
# 8 epochs of 5,000 images.
_MAPPER = Schedule(steps=2_500, batch=16, rate=2e-4, weight_decay=0.01)
# The fields of PsmConfig that decide a stage's weights. Not among them: checkpointing, which changes no gradient.
_DECIDES = {
    "purifier": ("seed", "purifier", "cosine_weight", "pixel_weight", "bf16"),
    "mapper": (
        *("seed", "purifier", "cosine_weight", "pixel_weight", "bf16"),
        *("mapper", "blocks", "noises", "stats_weight", "identity_weight"),
    ),
}


@dataclass(frozen=True)
class PsmConfig:
    """Sizes and schedules; the defaults are the paper's, where it says them.

    Attributes:
        seed: of the order of the images, new weights and noise.
        purifier, mapper: the stages' optimisation; a purifier of 0 steps stays as its file has it.
        blocks: of the mapper.
        noises: per image and step of the mapper.
        cosine_weight, pixel_weight: of the purifier's loss.
        stats_weight, identity_weight: of the mapper's loss.
        bf16: compute the networks in bfloat16 (weights, losses and optimiser stay float32).
        checkpointing: recompute the purifier's activations in the backward pass instead of keeping them.
    """

    seed: int = 0
    purifier: Schedule = _PURIFIER
    mapper: Schedule = _MAPPER
    blocks: int = 3
    noises: int = 8
    cosine_weight: float = 0.25
    pixel_weight: float = 0.25
    stats_weight: float = 100.0
    identity_weight: float = 0.25
    bf16: bool = False
    checkpointing: bool = False


class FrozenEncoder(nn.Module):
    """What an engine does behind the purifier: antialiased resize, normalisation, encoder.

    Args:
        recipe: grid, encoder, normalisation and output.
        features: the encoder's network for that output.
    """

    def __init__(self, recipe: Recipe, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.resize = Resize(recipe.grid.size, encoder_size(recipe), recipe.mean, recipe.std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode [B, 3, H, W] in [0, 1] on the grid to [B, L, D] float32."""
        features: Tensor = self.features(self.resize(pixels))
        return features.float()


@dataclass(frozen=True)
class Setting:
    """What both stages work with.

    Attributes:
        config: sizes and schedules.
        recipe: σ, grid, normalisation, output and encoder.
        data: images.
        encoder: frozen.
        unet: sizes of the purifier, or None without one.
        weights: stage → sha256 of the files that its weights were loaded from.
    """

    config: PsmConfig
    recipe: Recipe
    data: ImageFolder
    encoder: FrozenEncoder
    unet: DenoiserConfig | None
    weights: Mapping[str, list[str]]

    def parts(self, stage: str) -> dict[str, str]:
        """Return all that a stage's weights depend on, in words, with a sha256 each."""
        config, recipe = asdict(self.config), self.recipe
        networks = {
            "sigma": recipe.sigma,
            "grid": asdict(recipe.grid),
            "mean": recipe.mean,
            "std": recipe.std,
            "encoder": encoder_record(recipe),
            "output": recipe.output_name,
            "purifier": asdict(self.unet) if self.unet else None,
        }
        return {
            "images": self.data.digest,
            "recipe": _sha256(networks),
            "weights": _sha256(
                {**self.weights, **({"meant": dict(recipe.weights)} if recipe.weights else {})}
            ),
            "schedule": _sha256({name: config[name] for name in _DECIDES[stage]}),
        }

    def digest(self, stage: str) -> str:
        """Return a sha256 that changes with anything that a stage's weights depend on, and with nothing else."""
        return _sha256([stage, self.parts(stage)])

    def about(self) -> dict[str, Any]:
        """Return what the weights are for, as `save_weights` writes it."""
        return {"output": self.recipe.output_name, "encoder": encoder_record(self.recipe)}

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute."""
        return torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.config.bf16)

    def noisy(self, stage: str, step: int, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise, standard normal, and the noisy grid values."""
        generator = step_generator(self.config.seed, stage, step, clean.device)
        z = torch.randn(clean.shape, generator=generator, device=clean.device)
        return z, add_noise(clean, z, self.recipe.sigma)


def _sha256(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
