"""The torch modules of a recipe: folded at the recipe's σ, ready for export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import nn

from fsfast.models import (
    EFFICIENTNET_LITE0,
    VIT_B_16,
    VIT_B_32,
    VIT_L_14,
    VIT_L_14_336,
    VIT_TINY,
    DenoiserConfig,
    DRUNet,
    EfficientNet,
    EfficientNetConfig,
    EfficientNetFeatures,
    FoldedMapper,
    FoldedUNet,
    LowRankMapper,
    SmoothnessMapper,
    UNet,
    VisionTransformer,
    ViTConfig,
    ViTFeatures,
    new_denoiser,
)
from fsfast.models.checkpoints.networks import PURIFIERS
from fsfast.models.mapper import HEAD_DIM

from .outside_network import ENDS, OutsideEncoder
from .recipe import BY_SHAPE, STAGES, Recipe

if TYPE_CHECKING:
    # Training knows networks, and needs no onnx.
    from .graph import ExportedGraph

ENCODERS = {
    "vit-b32": VIT_B_32,
    "vit-b16": VIT_B_16,
    "vit-l14": VIT_L_14,
    "vit-l14-336": VIT_L_14_336,
    "vit-tiny": VIT_TINY,
    "efficientnet-lite0": EFFICIENTNET_LITE0,
}
EncoderConfig: TypeAlias = ViTConfig | EfficientNetConfig
# Input and output of a purifier's graph.
_NOISE = ("x_t", "eps_hat")
# And of a mapper's.
_REFINED = ("tokens", "refined")
# By the type of an engine's architecture.
_CONFIGS: dict[str, type[EncoderConfig]] = {"vit": ViTConfig, "efficientnet": EfficientNetConfig}


class Source(Protocol):
    """Where the weights of an engine come from."""

    def load(self, stage: str) -> nn.Module:
        """Return a stage's network with its weights: a Denoiser, a VisionTransformer, an EfficientNet, or a mapper."""
        ...

    def provenance(self, stage: str) -> tuple[str, str]:
        """Return where the weights of a stage come from, and their licence; asked after `load`."""
        ...


@dataclass(frozen=True)
class Network:
    """One stage.

    Attributes:
        module: folded at σ, in evaluation mode.
        input, output: tensor names of the graph.
        architecture: what a torch back end needs to build the module again.
        graph: where the network came with one, what it computes.
    """

    module: nn.Module
    input: str
    output: str
    architecture: dict[str, Any]
    graph: ExportedGraph | None = None


class Drawn:
    """Weights drawn from the recipe's seed.

    Args:
        recipe: what to build.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def load(self, stage: str) -> nn.Module:
        """See `Source`."""
        # A seed of its own, so that no stage depends on what was done between two.
        torch.manual_seed(3 * self.recipe.random_seed + STAGES.index(stage))
        module = empty(self.recipe, stage)
        _wake(module)
        return module

    def provenance(self, stage: str) -> tuple[str, str]:
        """See `Source`."""
        return f"random weights, seed {self.recipe.random_seed}; never trained", self.recipe.licence_of(stage)


def empty(recipe: Recipe, stage: str) -> nn.Module:
    """Return a stage's module by the recipe's presets, as torch initialises it.

    Raises:
        ValueError: the recipe names a preset that does not exist.
    """
    if stage == "purifier":
        assert recipe.purifier is not None
        return new_denoiser(_preset(PURIFIERS, recipe.purifier, "purifier"))
    if stage == "encoder":
        config = encoder_config(recipe)
        return VisionTransformer(config) if isinstance(config, ViTConfig) else EfficientNet(config)
    assert recipe.mapper_blocks is not None
    return SmoothnessMapper(feature_dim(recipe), recipe.mapper_blocks)


def check_networks(recipe: Recipe) -> None:
    """Refuse networks that do not exist or do not go together; nothing is built for it.

    Raises:
        ValueError: there is no such preset; the grid is not one for the purifier, or not the encoder's input where
            there is no purifier; the encoder has no such output; a mapper cannot have the encoder's channels.
    """
    if recipe.outside is None:
        with torch.device("meta"):
            features(recipe)
    (height, width), grid = encoder_size(recipe), recipe.grid
    if recipe.purifier is None and grid.size != (height, width):
        raise ValueError(
            f"without a purifier the grid must be the encoder's input size, {height}×{width}; "
            f"the recipe says {grid.height}×{grid.width}"
        )
    if recipe.purifier not in (None, BY_SHAPE):
        check_grid(recipe, _preset(PURIFIERS, recipe.purifier, "purifier"), f"the purifier {recipe.purifier}")
    # Files say for which channels they are.
    if recipe.mapper_blocks is not None and "mapper" not in recipe.files:
        _check_mapper(recipe)


def features(recipe: Recipe) -> nn.Module:
    """Return what an engine runs of the recipe's encoder, without its weights; raises ValueError for another output."""
    config = encoder_config(recipe)
    if isinstance(config, ViTConfig):
        return ViTFeatures(config, recipe.output, recipe.ln_post)
    if recipe.output_name == "tokens+ln_post":
        raise ValueError(f"the encoder {recipe.encoder} has no ln_post; choose --output tokens or pooled")
    return EfficientNetFeatures(config, recipe.output)


def _check_mapper(recipe: Recipe) -> None:
    dim = feature_dim(recipe)
    if dim % HEAD_DIM:
        raise ValueError(
            f"a mapper wants features of a multiple of {HEAD_DIM} channels, the channels of a head, got {dim} of "
            f"{recipe.encoder}'s {recipe.output_name}; choose another --output, or leave the mapper out"
        )
    with torch.device("meta"):
        assert recipe.mapper_blocks is not None
        SmoothnessMapper(dim, recipe.mapper_blocks)


def check_grid(recipe: Recipe, config: DenoiserConfig, what: str) -> None:
    """Refuse a grid that a purifier cannot halve as often as it wants to.

    Raises:
        ValueError: height or width is not a multiple of the network's.
    """
    grid, multiple = recipe.grid, config.size_multiple
    if grid.height % multiple or grid.width % multiple:
        raise ValueError(
            f"{what} wants a grid of multiples of {multiple}, got {grid.height}×{grid.width}; "
            "change [grid] of the recipe"
        )


def fold(recipe: Recipe, module: nn.Module) -> Network:
    """Return what an engine runs of a stage's module.

    Args:
        recipe: σ and the encoder's output.
        module: UNet, DRUNet, VisionTransformer, EfficientNet, SmoothnessMapper, LowRankMapper, what an engine runs of
            one of them, or OutsideEncoder.
    """
    if isinstance(module, OutsideEncoder):
        return Network(module, *ENDS, {"type": "onnx"}, module.graph)
    if isinstance(module, UNet | FoldedUNet):
        folded = module.at_sigma(recipe.sigma) if isinstance(module, UNet) else module
        architecture = {"type": "unet", "config": asdict(module.config)}
        return Network(folded, *_NOISE, architecture)
    if isinstance(module, DRUNet):
        return Network(module, *_NOISE, {"type": "drunet", "config": module.config.to_record()})
    if isinstance(module, VisionTransformer | ViTFeatures):
        whole = isinstance(module, VisionTransformer)
        own = module.features(recipe.output, recipe.ln_post) if whole else module
        architecture = {"type": "vit", "config": module.config.to_record()}
        architecture |= {"output": recipe.output, "ln_post": recipe.ln_post}
        return Network(own, *ENDS, architecture)
    if isinstance(module, EfficientNet | EfficientNetFeatures):
        trained = isinstance(module, EfficientNet)
        architecture = {"type": "efficientnet", "config": module.config.to_record(), "output": recipe.output}
        return Network(module.features(recipe.output) if trained else module, *ENDS, architecture)
    if isinstance(module, LowRankMapper):
        architecture = {"type": "low_rank_mapper", "config": {"dim": module.dim, "rank": module.rank}}
        return Network(module, *_REFINED, architecture)
    assert isinstance(module, SmoothnessMapper | FoldedMapper)
    mapper = module.at_sigma(recipe.sigma) if isinstance(module, SmoothnessMapper) else module
    architecture = {"type": "mapper", "config": {"dim": module.dim, "blocks": len(module.blocks)}}
    return Network(mapper, *_REFINED, architecture)


def build_networks(recipe: Recipe, source: Source | None = None) -> dict[str, Network]:
    """Return stage → network, all at once.

    Args:
        recipe: what to build.
        source: of the weights; None: they are drawn.

    Raises:
        ValueError: the recipe names a preset that does not exist, or the source has not what it wants.
    """
    source = source or Drawn(recipe)
    return {stage: fold(recipe, source.load(stage)) for stage in recipe.stages}


def encoder_config(recipe: Recipe) -> EncoderConfig:
    """Return the configuration of the recipe's encoder.

    Raises:
        ValueError: there is no such preset, or its own configuration is none of its type.
    """
    if recipe.encoder_config is None:
        config: EncoderConfig = _preset(ENCODERS, recipe.encoder, "encoder")
        return config
    try:
        return _CONFIGS[recipe.encoder_type].from_record(recipe.encoder_config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"[encoder.config] of recipe {recipe.name}: {error}") from None


def encoder_record(recipe: Recipe) -> dict[str, Any]:
    """Return what a mapper must know of the encoder that it was trained behind; raises as `encoder_config`."""
    if recipe.outside is not None:
        return {"type": "onnx", "tokens": recipe.outside.tokens, "dim": recipe.outside.dim}
    return encoder_config(recipe).to_record()


def encoder_size(recipe: Recipe) -> tuple[int, int]:
    """Return the height and width of the encoder's input; raises as `encoder_config`."""
    if recipe.outside is not None:
        return recipe.outside.size
    side = encoder_config(recipe).image_size
    return side, side


def feature_dim(recipe: Recipe) -> int:
    """Return the channels of the encoder's output."""
    if recipe.outside is not None:
        return recipe.outside.dim
    return encoder_config(recipe).feature_shape(recipe.output)[1]


def _preset(presets: dict[str, Any], name: str, what: str) -> Any:
    if name not in presets:
        raise ValueError(f"wanted a {what} preset ({', '.join(presets)}), got {name!r}")
    return presets[name]


@torch.no_grad()
def _wake(module: nn.Module) -> None:
    """Give the layers that training would start at zero small random weights, so that they do something."""
    for parameter in module.parameters():
        if parameter.ndim >= 2 and not parameter.any():
            parameter.normal_(std=0.02)
