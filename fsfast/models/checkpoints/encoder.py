"""Published CLIP image towers into VisionTransformer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.layouts import Tower, find_towers
from fsfast.models.checkpoints.matching import (
    Loaded,
    check_fit,
    fill,
    remedy_for,
    shapes_of,
    storage_note,
)
from fsfast.models.checkpoints.settings import Sizes, settings_said, usual_heads
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.vit import VisionTransformer, ViTConfig

# A name that tells what a checkpoint without an image tower is, and what to do about it.
_FOREIGN = {
    "attnpool.positional_embedding": "a CLIP with a ResNet; choose one with a ViT",
    "visual.trunk.patch_embed.proj.weight": "an open_clip model around a tower of timm; choose one with its own ViT",
    "patch_embed.proj.weight": "a ViT in timm's names; take the open_clip_model.safetensors of the same model",
    "time_embed.0.weight": "a U-Net; use load_purifier",
    "blocks.0.film.0.weight": "a smoothness mapper; use load_mapper",
    "lm_head.weight": "a language model without its image tower; for LLaVA-1.5 as its authors published it, "
    "load openai/clip-vit-large-patch14-336",
}


@dataclass(frozen=True)
class LoadedEncoder(Loaded[VisionTransformer]):
    """An image tower with the weights of a checkpoint; see Loaded.

    Attributes:
        projection: whether the checkpoint had one. Without (CLIPVisionModel, LLaVA) `module.proj` is the identity, and
            pooled outputs are ln_post(class token) of width channels, transformers' `pooler_output`.
    """

    projection: bool


def load_encoder(
    path: str | os.PathLike[str],
    config: ViTConfig | None = None,
    *,
    quick_gelu: bool | None = None,
    values: bool = True,
) -> LoadedEncoder:
    """Load a CLIP image tower, whatever published layout it is in.

    Sizes are read off the weights. Heads and activation do not show there: they are `config`'s, or those that the
    config.json or open_clip_config.json beside the weights says (read where a directory or an index is given), or,
    for ViT-B, ViT-L and ViT-H, the usual heads and `quick_gelu`. `notes` of the result say which.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either. Of a whole
            CLIP or LLaVA only the image tower is read, and only its shards are opened.
        config: the tower's configuration. Its embed_dim does not count where the checkpoint has no projection.
        quick_gelu: True for OpenAI's weights and all that began with them (FARE, TeCoA, LLaVA), False for most of
            LAION's; only needed where neither config nor the checkpoint says it.
        values: False compares names, shapes and settings alone: the module has no memory, and no file is hashed.

    Returns:
        the tower, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the path holds no image tower, or more than one; it is not exactly the tower that config
            describes; heads or activation are not known; values are not finite; a file is missing, damaged, of
            another kind, or has more in it than tensors.
        ValueError: config and quick_gelu contradict each other.
    """
    if config is not None and quick_gelu not in (None, config.quick_gelu):
        raise ValueError(
            f"wanted quick_gelu as in config ({config.quick_gelu}), got {quick_gelu}; leave it out"
        )
    checkpoint = Checkpoint(path)
    tower = _only_tower(checkpoint)
    given = config
    if config is None:
        config, notes = _configured(checkpoint, tower, quick_gelu)
    else:
        notes = (f"heads={config.heads}, quick_gelu={config.quick_gelu}: the caller",)
    if not tower.projection:
        config = replace(config, embed_dim=config.width)
        notes += ("proj is the identity: the checkpoint has none; pooled is ln_post(class token)",)

    with torch.device("meta"):
        module = VisionTransformer(config)
    shapes = shapes_of(module)
    sources = {weight: tower.source(weight) for weight in shapes if weight != "proj" or tower.projection}
    under = f" under {tower.prefix!r}" if tower.prefix else ""
    what = f"those of {config}, named as in {tower.layout}{under}"
    remedy = "choose weights of this architecture, or give the ViTConfig that they have"
    check_fit(checkpoint, shapes, sources, tower.concerns, what, remedy)
    if given is not None:
        _check_said(checkpoint, tower, given)
    if not values:
        return LoadedEncoder(module, tower.layout, (), notes, tower.projection)
    added = {} if tower.projection else {"proj": torch.eye(config.width)}
    fill(module, checkpoint, sources, added)
    return LoadedEncoder(
        module, tower.layout, checkpoint.files(), notes + storage_note(checkpoint), tower.projection
    )


def _only_tower(checkpoint: Checkpoint) -> Tower:
    towers = find_towers(checkpoint.names)
    if len(towers) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: wanted one image tower, found {len(towers)}, under "
            f"{' and '.join(repr(tower.prefix) for tower in towers)}; save the one that is meant alone"
        )
    if towers:
        return towers[0]
    for sign, what in _FOREIGN.items():
        if any(name == sign or name.endswith(f".{sign}") for name in checkpoint.names):
            raise CheckpointError(f"{checkpoint.path}: wanted a CLIP image tower, got {what}")
    some = ", ".join(sorted(checkpoint.names)[:3])
    raise CheckpointError(
        f"{checkpoint.path}: wanted a CLIP image tower in open_clip's or transformers' names, got "
        f"{len(checkpoint.names)} tensors of something else ({some}, …). "
        f"Remedy: {remedy_for(checkpoint.path, 'choose another checkpoint')}"
    )


def _check_said(checkpoint: Checkpoint, tower: Tower, config: ViTConfig) -> None:
    """Refuse a configuration that the checkpoint contradicts where the weights do not show it."""
    hidden = config.width * config.mlp_ratio
    sizes = Sizes(config.width, config.layers, config.patch, config.image_size, hidden)
    said = settings_said(checkpoint, tower, sizes)
    for name, value in (("heads", said.heads), ("quick_gelu", said.quick_gelu)):
        if value not in (None, getattr(config, name)):
            raise CheckpointError(
                f"{checkpoint.path}: the given config has {name}={getattr(config, name)}, and {said.by} says {value}; "
                "change the config, or give the path of the weights file alone"
            )


def _configured(
    checkpoint: Checkpoint, tower: Tower, quick_gelu: bool | None
) -> tuple[ViTConfig, tuple[str, ...]]:
    sizes, embed_dim = _sizes(checkpoint, tower)
    said = settings_said(checkpoint, tower, sizes)
    usual = f"as in every CLIP of width {sizes.width} with {sizes.layers} blocks"
    heads, by = (said.heads, said.by) if said.heads else (usual_heads(checkpoint, sizes), usual)
    if said.quick_gelu is None and quick_gelu is None:
        raise CheckpointError(
            f"{checkpoint.path}: weights do not show whether a tower uses QuickGELU; say quick_gelu=True for OpenAI's "
            "and all that began with them (FARE, TeCoA, LLaVA), quick_gelu=False for most of LAION's"
        )
    if said.quick_gelu is not None and quick_gelu not in (None, said.quick_gelu):
        raise CheckpointError(
            f"{checkpoint.path}: the caller says quick_gelu={quick_gelu}, and {said.by} says {said.quick_gelu}; "
            "leave it out, or give the path of the weights file alone"
        )
    quick = bool(quick_gelu if said.quick_gelu is None else said.quick_gelu)
    by_whom = "the caller" if said.quick_gelu is None else said.by
    notes = (f"heads={heads}: {by}", f"quick_gelu={quick}: {by_whom}")
    try:
        config = ViTConfig(
            width=sizes.width,
            layers=sizes.layers,
            heads=heads,
            patch=sizes.patch,
            image_size=sizes.image_size,
            embed_dim=embed_dim,
            mlp_ratio=sizes.hidden // sizes.width,
            quick_gelu=quick,
        )
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}; choose another checkpoint") from None
    return config, notes


def _sizes(checkpoint: Checkpoint, tower: Tower) -> tuple[Sizes, int]:
    """The tower's sizes and the width of its pooled output, by the shapes of its weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    dims = {"conv1.weight": 4, "positional_embedding": 2, "transformer.resblocks.0.mlp.c_fc.weight": 2}
    for weight, ndim in (dims | ({"proj": 2} if tower.projection else {})).items():
        source = tower.source(weight)
        (name,) = source.names
        if name not in checkpoint.names:
            remedy = remedy_for(
                checkpoint.path, "give the ViTConfig if it is made otherwise; else get it again"
            )
            raise CheckpointError(f"{checkpoint.path}: an image tower without {name}. Remedy: {remedy}")
        shape = checkpoint.shape(name)
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(f"{checkpoint.path}: wanted {name} with {ndim} axes, got {list(shape)}")
        shapes[weight] = source.stored_shape(shape)
    conv, positions = shapes["conv1.weight"], shapes["positional_embedding"]
    width, hidden = conv[0], shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    side = math.isqrt(positions[0] - 1)
    if side * side != positions[0] - 1 or side == 0 or hidden % width:
        raise CheckpointError(
            f"{checkpoint.path}: wanted a square of patches and an MLP of a multiple of the width, got "
            f"{positions[0] - 1} patches and {hidden} over {width}; VisionTransformer cannot be such a tower"
        )
    sizes = Sizes(width, tower.blocks(checkpoint.names), conv[2], side * conv[2], hidden)
    return sizes, shapes["proj"][1] if tower.projection else width
