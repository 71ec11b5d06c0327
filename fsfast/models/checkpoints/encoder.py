"""Published image towers into VisionTransformer."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fsfast.errors import CheckpointError
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
from fsfast.models.checkpoints.names import OPEN_CLIP, PERCEPTION
from fsfast.models.checkpoints.positions import ResizedPositions, in_halves
from fsfast.models.checkpoints.preparation import Preparation, preparation_said
from fsfast.models.checkpoints.settings import in_words, settings_said, usual_heads
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.checkpoints.shown import Sizes, shown_by
from fsfast.models.vit import VisionTransformer, rotary_embedding
from fsfast.models.vit_config import ViTConfig

# A name that tells what a checkpoint without an image tower is, and what to do about it.
_FOREIGN = {
    "attnpool.positional_embedding": "a CLIP with a ResNet; choose one with a ViT",
    "attn_pool.query": "a CoCa, whose tokens are pooled by attention of many queries; choose a CLIP",
    "trunk.stem.0.weight": "an open_clip model around a ConvNeXt; choose one with a ViT",
    "visual.trunk.patch_embed.proj.weight": "an open_clip model around a tower of timm that is no SigLIP; choose one "
    "with open_clip's own ViT",
    "patch_embed.proj.weight": "a ViT in timm's names that is no DINOv2 or SigLIP; choose one of the families in "
    "docs/engines.md",
    "time_embed.0.weight": "a U-Net; use load_purifier",
    "blocks.0.film.0.weight": "a smoothness mapper; use load_mapper",
    "lm_head.weight": "a language model without its image tower; for LLaVA-1.5 as its authors published it, "
    "load openai/clip-vit-large-patch14-336",
}
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
        values: False compares names, shapes and settings alone: the module has no memory, and no file is hashed.

    Returns:
        the tower, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the path holds no image tower, or more than one; it is not exactly the tower that config
            describes; heads or activation are not known; values are not finite; a file is missing, damaged, of
            another kind, or has more in it than tensors.
        ValueError: config and quick_gelu contradict each other.
    """
    if config is not None and quick_gelu not in (None, config.activation == "quick_gelu"):
        raise ValueError(
            f"wanted quick_gelu as in config ({config.activation == 'quick_gelu'}), got {quick_gelu}; leave it out"
        )
    if config is not None and image_size not in (None, config.image_size):
        raise ValueError(
            f"wanted image_size as in config ({config.image_size}), got {image_size}; leave it out"
        )
    checkpoint = Checkpoint(path)
    tower = _only_tower(checkpoint)
    given = config
    if config is None:
        config, notes = _configured(checkpoint, tower, quick_gelu, image_size)
    else:
        notes = (f"heads={config.heads}, {in_words(config.activation)}: the caller",)
    projected = config.projection and tower.projection
    if config.projection and not projected:
        config = replace(config, embed_dim=config.width)
        notes += ("proj is the identity: the checkpoint has none; pooled is ln_post(class token)",)

    with torch.device("meta"):
        module = VisionTransformer(config)
    shapes = {name: shape for name, shape in shapes_of(module).items() if not name.startswith("rotary.")}
    sources = {weight: tower.source(weight) for weight in shapes if weight != "proj" or projected}
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


def _only_tower(checkpoint: Checkpoint) -> Tower:
    towers = find_towers(checkpoint.names)
    _refuse_adapters(checkpoint, tuple(tower.prefix for tower in towers) or ("",))
    if len(towers) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: wanted one image tower, found {len(towers)}, under "
            f"{' and '.join(repr(tower.prefix) for tower in towers)}; save the one that is meant alone"
        )
    # Beside the blocks of a CLIP a CoCa has this.
    if towers and f"{towers[0].prefix}attn_pool.query" not in checkpoint.names:
        return towers[0]
    for sign, what in _FOREIGN.items():
        if any(name == sign or name.endswith(f".{sign}") for name in checkpoint.names):
            raise CheckpointError(f"{checkpoint.path}: wanted an image tower, got {what}")
    some = ", ".join(sorted(checkpoint.names)[:3])
    raise CheckpointError(
        f"{checkpoint.path}: wanted an image tower in open_clip's, transformers' or timm's names, got "
        f"{len(checkpoint.names)} tensors of something else ({some}, …). "
        f"Remedy: {remedy_for(checkpoint.path, 'choose another checkpoint')}"
    )


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
    source, patches = sources.get("positional_embedding"), sources.get("conv1.weight")
    if source is None or patches is None or not {*source.stored, *patches.stored} <= checkpoint.names:
        return None
    if checkpoint.shape(patches.stored[0])[-2:] != (config.patch, config.patch):
        # Patches of another size are another network, however many there are.
        return None
    shape = checkpoint.shape(source.stored[0])[source.leading :]
    begin, side = int(config.class_token), config.image_size // config.patch
    # Qwen's own way with every image.
    aligned = sources["positional_embedding"].stored[0].endswith("pos_embed.weight")
    stored = math.isqrt(max(shape[0] - begin, 0)) if len(shape) == 2 else 0
    if stored in (0, side) or begin + stored * stored != shape[0]:
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
    pooled = "cls" if fields["class_token"] else "none"
    if tower.has("attn_pool.latent"):
        pooled = "map"
    fields.setdefault("pooling", pooled if fields["final_norm"] else "none")
    if tower.layout.qwen and image_size is None:
        raise CheckpointError(
            f"{checkpoint.path}: this tower takes images of any size; say the one that the engine is for, as "
            f"load_encoder(…, image_size=448), in a recipe image_size under [encoder.config]"
        )
    fields.setdefault("image_size", image_size or (sizes.side or 0) * sizes.patch)
    if image_size not in (None, fields["image_size"]):
        raise ValueError(
            f"wanted image_size as in the checkpoint ({fields['image_size']}), got {image_size}; leave it out, or "
            "give a ViTConfig"
        )
    hidden, width = sizes.hidden, sizes.width
    try:
        config = ViTConfig(
            width=width,
            layers=sizes.layers,
            patch=sizes.patch,
            mlp_ratio=hidden // width if hidden % width == 0 else hidden / width,
            projection=tower.projection or (tower.layout.clip and fields["class_token"]),
            **fields,
        )
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}; choose another checkpoint") from None
    return config, (f"heads={heads}: {by}", f"{in_words(activation)}: {by_whom}")
