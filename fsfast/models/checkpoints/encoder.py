"""Published image towers into VisionTransformer."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fsfast.errors import CheckpointError
from fsfast.models.averages import Weights
from fsfast.models.checkpoints.foreign import NAFLEX, OUTSIDE, ForeignNetwork, foreign, foreign_tower
from fsfast.models.checkpoints.layouts import Source, Tower, find_towers
from fsfast.models.checkpoints.matching import (
    Loaded,
    check_fit,
    fill,
    read,
    remedy_for,
    shapes_of,
    storage_note,
)
from fsfast.models.checkpoints.names import OPEN_CLIP, PERCEPTION, TRANSFORMERS
from fsfast.models.checkpoints.positions import ResizedPositions, in_halves
from fsfast.models.checkpoints.preparation import Preparation, preparation_said
from fsfast.models.checkpoints.settings import in_words, settings_said, usual_heads
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.checkpoints.shown import Sizes, shown_by
from fsfast.models.vit import VisionTransformer, rotary_embedding
from fsfast.models.vit_config import ViTConfig

# Fields of ViTConfig that settings may say and weights do not show.
_SAID = (
    *("heads", "activation", "norm_eps", "rope_theta", "rope_grid", "pooling", "pool_heads"),
    *("merge", "taps", "window", "full_layers"),
)


@dataclass(frozen=True)
class LoadedEncoder(Loaded[VisionTransformer]):
    """An image tower with the weights of a checkpoint; see Loaded.

    Attributes:
        projection: whether the checkpoint had one. Without (CLIPVisionModel, LLaVA) `module.proj` is the identity, and
            pooled outputs are ln_post(class token) of width channels, transformers' `pooler_output`.
        preparation: how its pictures want to be prepared, None where nothing beside the weights says it.
    """

    projection: bool
    preparation: Preparation | None


def load_encoder(
    path: str | os.PathLike[str],
    config: ViTConfig | None = None,
    *,
    quick_gelu: bool | None = None,
    image_size: int | None = None,
    resize_positions: bool = False,
    weights: Weights | None = None,
    values: bool = True,
) -> LoadedEncoder:
    """Load an image tower, whatever published layout it is in: CLIP, SigLIP, DINOv2, DINOv3, InternViT, Qwen-VL,
    Perception Encoder.

    Sizes and most flags are read off the weights. Heads, activation and constants do not show there: they are
    `config`'s, or those that the config.json or open_clip_config.json beside the weights says (read where a directory
    or an index is given), or, for CLIP's ViT-B, ViT-L and ViT-H, the usual heads and `quick_gelu`. `notes` of the
    result say which.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either. Of a whole
            CLIP or LLaVA only the image tower is read, and only its shards are opened.
        config: the tower's configuration. Its embed_dim does not count where a CLIP has no projection.
        quick_gelu: True for OpenAI's weights and all that began with them (FARE, TeCoA, LLaVA), False for most of
            LAION's; only needed where neither config nor the checkpoint says it.
        image_size: height and width in pixels of the images that a tower of Qwen-VL will get, which takes any; where
            config does not say it.
        resize_positions: learned positions for another number of patches are resized to config's, bicubic as
            transformers does it; otherwise they are refused.
        weights: "raw" or "ema", where the file holds raw weights and their average.
        values: False compares names, shapes and settings alone: the module has no memory, and no file is hashed.

    Returns:
        the tower, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the path holds no image tower, more than one, or not the weights that are meant; it is not
            exactly the tower that config describes; heads or activation are not known; values are not finite; a file is
            missing, damaged, of another kind, or has more in it than tensors.
        ValueError: config and quick_gelu contradict each other; weights are none of the two.
    """
    if config is not None and quick_gelu not in (None, config.activation == "quick_gelu"):
        raise ValueError(
            f"wanted quick_gelu as in config ({config.activation == 'quick_gelu'}), got {quick_gelu}; leave it out"
        )
    if config is not None and image_size not in (None, config.image_size):
        raise ValueError(
            f"wanted image_size as in config ({config.image_size}), got {image_size}; leave it out"
        )
    checkpoint = Checkpoint(path, weights)
    tower = only_tower(checkpoint)
    given = config
    if config is None:
        config, notes = _configured(checkpoint, tower, quick_gelu, image_size)
    else:
        notes = (f"heads={config.heads}, {in_words(config.activation)}: the caller",)
    projected = config.projection and tower.projection
    if config.projection and not projected:
        config = replace(config, embed_dim=config.width)
        notes += ("proj is the identity: the checkpoint has none; pooled is ln_post(class token)",)

    module, shapes, sources = empty_tower(tower, config)
    resized = _resized(checkpoint, sources, config, resize_positions)
    if resized is not None:
        shapes["positional_embedding"] = (resized.begin + resized.side**2, config.width)
        notes += (resized.note,)
    under = f" under {tower.prefix!r}" if tower.prefix else ""
    what = f"those of {config}, named as in {tower.layout.name}{under}"
    remedy = "choose weights of this architecture, or give the ViTConfig that they have"
    check_fit(checkpoint, shapes, sources, tower.concerns, what, remedy)
    if given is not None:
        _check_said(checkpoint, tower, given, resized)
    notes += checkpoint.choice.note()
    preparation = preparation_said(checkpoint)
    if not values:
        return LoadedEncoder(module, tower.layout.name, (), notes, tower.projection, preparation)
    added = {} if projected or not config.projection else {"proj": torch.eye(config.width)}
    if (rotary := rotary_embedding(config)) is not None:
        added |= {f"rotary.{name}": table for name, table in rotary.state_dict().items()}
    if resized is not None:
        added["positional_embedding"] = resized.of(read(checkpoint, sources.pop("positional_embedding")))
    if config.rope_theta is not None and tower.layout.name in (OPEN_CLIP, PERCEPTION):
        for name in [name for name in sources if "attn.in_proj" in name]:
            added[name] = in_halves(read(checkpoint, sources.pop(name)), config.heads)
    fill(module, checkpoint, sources, added)
    notes += storage_note(checkpoint)
    return LoadedEncoder(module, tower.layout.name, checkpoint.files(), notes, tower.projection, preparation)


def only_tower(checkpoint: Checkpoint) -> Tower:
    """Return the image tower of a checkpoint.

    Raises:
        ForeignNetwork: it is of a kind that VisionTransformer does not compute, or another network.
        CheckpointError: there is none, or more than one; its weights are changed by others beside them.
    """
    towers = find_towers(checkpoint.names)
    _refuse_adapters(checkpoint, tuple(tower.prefix for tower in towers) or ("",))
    if len(towers) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: wanted one image tower, found {len(towers)}, under "
            f"{' and '.join(repr(tower.prefix) for tower in towers)}; save the one that is meant alone"
        )
    if towers:
        _refuse_another(checkpoint, towers[0])
        return towers[0]
    if found := foreign(checkpoint.names):
        raise ForeignNetwork(checkpoint.path, found)
    some = ", ".join(sorted(checkpoint.names)[:3])
    raise CheckpointError(
        f"{checkpoint.path}: wanted an image tower in open_clip's, transformers' or timm's names, got "
        f"{len(checkpoint.names)} tensors of something else ({some}, …). "
        f"Remedy: {remedy_for(checkpoint.path, f'choose another checkpoint, or: {OUTSIDE}')}"
    )


def empty_tower(
    tower: Tower, config: ViTConfig
) -> tuple[VisionTransformer, dict[str, tuple[int, ...]], dict[str, Source]]:
    """Return a tower without memory, the shapes of its weights, and where a checkpoint has them."""
    with torch.device("meta"):
        module = VisionTransformer(config)
    shapes = {name: shape for name, shape in shapes_of(module).items() if not name.startswith("rotary.")}
    projected = config.projection and tower.projection
    sources = {weight: tower.source(weight) for weight in shapes if weight != "proj" or projected}
    return module, shapes, sources


def _refuse_another(checkpoint: Checkpoint, tower: Tower) -> None:
    """Refuse a tower that has names as ours have, and is another network."""
    found = foreign_tower(name.removeprefix(tower.prefix) for name in tower.own)
    if found is None and tower.layout.name == TRANSFORMERS and tower.has("conv1.weight"):
        flat = len(checkpoint.shape(tower.source("conv1.weight").stored[0])) == 2
        found = NAFLEX if flat else None
    if found is not None:
        raise ForeignNetwork(checkpoint.path, found)


def _refuse_adapters(checkpoint: Checkpoint, prefixes: tuple[str, ...]) -> None:
    """Refuse weights that are changed by others beside them; those of a language model may be."""
    adapters = [name for name in checkpoint.names if ".lora_" in name and name.startswith(prefixes)]
    if not adapters:
        return
    alone = len(adapters) == len(checkpoint.names)
    what = "a LoRA adapter without its model" if alone else "a model with LoRA layers that were not merged"
    raise CheckpointError(
        f"{checkpoint.path}: wanted the weights of an image tower, got {what} ({adapters[0]}, …); merge them with "
        "peft's merge_and_unload(), and save the model that it returns"
    )


def _check_said(
    checkpoint: Checkpoint, tower: Tower, config: ViTConfig, resized: ResizedPositions | None
) -> None:
    """Refuse a configuration that the checkpoint contradicts where the weights do not show it."""
    side = None
    if config.learned_positions:
        side = resized.side if resized is not None else config.image_size // config.patch
    said = settings_said(
        checkpoint, tower, Sizes(config.width, config.layers, config.patch, side, config.hidden)
    )
    for name in _SAID:
        value, own = said.fields.get(name), getattr(config, name)
        if value not in (None, own):
            both = [in_words(each) if name == "activation" else f"{name}={each}" for each in (own, value)]
            raise CheckpointError(
                f"{checkpoint.path}: the given config has {both[0]}, and {said.by} says {both[1].split('=')[1]}; "
                "change the config, or give the path of the weights file alone"
            )


def _resized(
    checkpoint: Checkpoint, sources: Mapping[str, Source], config: ViTConfig, wanted: bool
) -> ResizedPositions | None:
    """How the checkpoint's positions become those of config; None where they are."""
    source, conv = sources.get("positional_embedding"), sources.get("conv1.weight")
    if source is None or conv is None or not {*source.stored, *conv.stored} <= checkpoint.names:
        return None
    if checkpoint.shape(conv.stored[0])[-2:] != (config.patch, config.patch):
        # Patches of another size are another network, however many there are.
        return None
    shape = checkpoint.shape(source.stored[0])[source.leading :]
    begin, side = int(config.class_token), config.image_size // config.patch
    # Qwen's own way with every image.
    aligned = source.stored[0].endswith("pos_embed.weight")
    patches = shape[0] + source.zeros - begin if len(shape) == 2 else 0
    stored = math.isqrt(max(patches, 0))
    if stored in (0, side) or stored * stored != patches:
        return None
    if not wanted and not aligned:
        raise CheckpointError(
            f"{checkpoint.path}: wanted positions for {side}×{side} patches ({config.image_size} pixels), got "
            f"those for {stored}×{stored} ({stored * config.patch} pixels); choose weights for {config.image_size} "
            f"pixels or a recipe for {stored * config.patch}, or let them be resized: "
            "load_encoder(…, resize_positions=True), in a "
            "recipe resize_positions = true under [encoder]"
        )
    return ResizedPositions(begin, stored, side, aligned)


def _configured(
    checkpoint: Checkpoint, tower: Tower, quick_gelu: bool | None, image_size: int | None
) -> tuple[ViTConfig, tuple[str, ...]]:
    sizes, shown = shown_by(checkpoint, tower)
    said = settings_said(checkpoint, tower, sizes)
    for name in shown.keys() & said.fields.keys():
        if shown[name] != said.fields[name]:
            raise CheckpointError(
                f"{checkpoint.path}: {said.by} says {name}={said.fields[name]}, and the weights {shown[name]}; if the "
                "file belongs to other weights, give the path of the weights file alone, and a ViTConfig"
            )
    usual = f"as in every CLIP of width {sizes.width} with {sizes.layers} blocks"
    heads, by = (
        (said.fields["heads"], said.by)
        if "heads" in said.fields
        else (usual_heads(checkpoint, tower, sizes), usual)
    )
    activation = said.fields.get("activation")
    if activation is None and quick_gelu is None:
        raise CheckpointError(
            f"{checkpoint.path}: weights do not show whether a tower uses QuickGELU; say quick_gelu=True for OpenAI's "
            "and all that began with them (FARE, TeCoA, LLaVA), quick_gelu=False for most of LAION's"
        )
    if activation is not None and quick_gelu not in (None, activation == "quick_gelu"):
        raise CheckpointError(
            f"{checkpoint.path}: the caller says quick_gelu={quick_gelu}, and {said.by} says "
            f"{in_words(activation).removeprefix('quick_gelu=')}; leave it out, or give the path of the weights file "
            "alone"
        )
    by_whom = said.by
    if activation is None:
        activation, by_whom = "quick_gelu" if quick_gelu else "gelu", "the caller"
    fields = {**shown, **said.kind, **said.fields, "heads": heads, "activation": activation}
    if tower.layout.qwen:
        if image_size is None:
            raise CheckpointError(
                f"{checkpoint.path}: this tower takes images of any size; say the one that the engine is for, as "
                "load_encoder(…, image_size=448), in a recipe image_size under [encoder.config]"
            )
        fields["image_size"] = image_size
    notes = f"heads={heads}: {by}", f"{in_words(activation)}: {by_whom}"
    config = assembled(checkpoint, tower, sizes, fields)
    if image_size not in (None, config.image_size):
        raise ValueError(
            f"wanted image_size as in the checkpoint ({config.image_size}), got {image_size}; leave it out, or give "
            "a ViTConfig"
        )
    return config, notes


def assembled(checkpoint: Checkpoint, tower: Tower, sizes: Sizes, fields: dict[str, Any]) -> ViTConfig:
    """Return the configuration of a tower.

    Args:
        checkpoint: for messages.
        tower: in it.
        sizes: of the tower.
        fields: what is known of ViTConfig besides; the rest is what towers of this kind have.

    Raises:
        CheckpointError: there is no such tower.
    """
    pooled = "cls" if fields["class_token"] else "none"
    if tower.has("attn_pool.latent"):
        pooled = "map"
    usual: dict[str, Any] = {
        "pooling": pooled if fields["final_norm"] else "none",
        "image_size": (sizes.side or 0) * sizes.patch,
    }
    fields = usual | fields
    hidden, width = sizes.hidden, sizes.width
    try:
        return ViTConfig(
            width=width,
            layers=sizes.layers,
            patch=sizes.patch,
            mlp_ratio=hidden // width if hidden % width == 0 else hidden / width,
            projection=tower.projection or (tower.layout.clip and fields["class_token"]),
            **fields,
        )
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}; choose another checkpoint") from None
