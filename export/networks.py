"""The torch modules of a recipe: folded at the recipe's σ, ready for export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from export.recipe import Recipe
from fsfast.models import (
    ADM256,
    UNET_LIGHT,
    UNET_TINY,
    VIT_B_16,
    VIT_L_14,
    VIT_L_14_336,
    VIT_TINY,
    SmoothnessMapper,
    UNet,
    VisionTransformer,
)

PURIFIERS = {"adm256": ADM256, "unet-light": UNET_LIGHT, "unet-tiny": UNET_TINY}
ENCODERS = {"vit-b16": VIT_B_16, "vit-l14": VIT_L_14, "vit-l14-336": VIT_L_14_336, "vit-tiny": VIT_TINY}

# Gives a stage's module its weights.
Fill = Callable[[str, torch.nn.Module], None]


@dataclass(frozen=True)
class Network:
    """One stage.

    Attributes:
        module: folded at σ, in evaluation mode.
        input, output: tensor names of the graph.
        architecture: what a torch back end needs to build the module again.
    """

    module: torch.nn.Module
    input: str
    output: str
    architecture: dict[str, Any]


def build_networks(recipe: Recipe, fill: Fill | None = None) -> dict[str, Network]:
    """Return stage → network.

    Args:
        recipe: what to build.
        fill: gives every stage its weights; None: they are drawn from the recipe's seed.

    Raises:
        ValueError: the recipe names a preset that does not exist.
    """
    torch.manual_seed(recipe.random_seed)
    fill = fill or _drawn
    networks = {}
    if recipe.purifier is not None:
        unet_config = _preset(PURIFIERS, recipe.purifier, "purifier")
        unet = UNet(unet_config)
        fill("purifier", unet)
        architecture = {"type": "unet", "config": asdict(unet_config)}
        networks["purifier"] = Network(unet.at_sigma(recipe.sigma), "x_t", "eps_hat", architecture)
    config = _preset(ENCODERS, recipe.encoder, "encoder")
    vit = VisionTransformer(config)
    fill("encoder", vit)
    features = vit.features(recipe.output, recipe.ln_post)
    architecture = {
        "type": "vit",
        "config": asdict(config),
        "output": recipe.output,
        "ln_post": recipe.ln_post,
    }
    networks["encoder"] = Network(features, "pixels", "tokens", architecture)
    if recipe.mapper_blocks is not None:
        dim = config.embed_dim if recipe.output == "pooled" else config.width
        mapper = SmoothnessMapper(dim, recipe.mapper_blocks)
        fill("mapper", mapper)
        architecture = {"type": "mapper", "config": {"dim": dim, "blocks": recipe.mapper_blocks}}
        networks["mapper"] = Network(mapper.at_sigma(recipe.sigma), "tokens", "refined", architecture)
    return networks


def encoder_size(recipe: Recipe) -> int:
    """Return the side of the encoder's square input, in pixels."""
    return int(_preset(ENCODERS, recipe.encoder, "encoder").image_size)


def _preset(presets: dict[str, Any], name: str, what: str) -> Any:
    if name not in presets:
        raise ValueError(f"wanted a {what} preset ({', '.join(presets)}), got {name!r}")
    return presets[name]


@torch.no_grad()
def _drawn(stage: str, module: torch.nn.Module) -> None:
    """Give the layers that training would start at zero small random weights, so that they do something."""
    for parameter in module.parameters():
        if parameter.ndim >= 2 and not parameter.any():
            parameter.normal_(std=0.02)
