"""Purifiers (U-Nets and DRUNets) and mappers (smoothness and low-rank) from their checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch

from fsfast.errors import CheckpointError
from fsfast.models.averages import Weights
from fsfast.models.checkpoints.layouts import Source
from fsfast.models.checkpoints.matching import Loaded, check_fit, fill, shapes_of, storage_note
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.drunet import DRUNET_LIGHT, DRUNetConfig
from fsfast.models.low_rank_mapper import LowRankMapper
from fsfast.models.mapper import HEAD_DIM, SmoothnessMapper
from fsfast.models.purifier import Denoiser, DenoiserConfig, new_denoiser
from fsfast.models.unet import ADM256, UNET_LIGHT, UNET_TINY, UNetConfig

PURIFIERS: Mapping[str, DenoiserConfig] = {
    "adm256": ADM256,
    "unet-light": UNET_LIGHT,
    "unet-tiny": UNET_TINY,
    "drunet-light": DRUNET_LIGHT,
}
Mapper: TypeAlias = SmoothnessMapper | LowRankMapper
# Around a bare state dict: DataParallel, torch.compile, OneStepPurifier.
_AROUND = re.compile(r"((module|_orig_mod|unet)\.)+")
# Names that tell networks from each other.
_UNET = {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"}
_LOW_RANK = {"down", "up"}
_DRUNET = {"down_blocks.0.0.conv1.weight", "middle.0.conv1.weight", "up_blocks.0.0.conv1.weight"}


def load_purifier(
    path: str | os.PathLike[str],
    config: DenoiserConfig | None = None,
    *,
    weights: Weights | None = None,
    values: bool = True,
) -> Loaded[Denoiser]:
    """Load a purifier: guided-diffusion's unconditional 256×256 U-Net, or a U-Net or DRUNet of ours.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either.
        config: of the network. By default the one of ADM256, UNET_LIGHT, UNET_TINY and DRUNET_LIGHT whose names and
            shapes the checkpoint has; a U-Net's groups and channels per head do not show in weights and are taken
            from there.
        weights: "raw" or "ema", where the file holds raw weights and their average.
        values: False compares names and shapes alone: the module has no memory, and no file is hashed.

    Returns:
        the network, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the tensors are not exactly those of config, or of one of the four; values are not finite;
            a file is missing, damaged, of another kind, has more in it than tensors, or not the weights that are meant.
        ValueError: weights are none of the two.
    """
    return purifier_of(Checkpoint(path, weights), config, values=values)


def purifier_of(
    checkpoint: Checkpoint, config: DenoiserConfig | None = None, *, values: bool = True
) -> Loaded[Denoiser]:
    """Load the purifier of a checkpoint; see `load_purifier`."""
    prefix = _prefix(checkpoint)
    name, chosen = ("the given config", config) if config is not None else _nearest(checkpoint, prefix)
    _check_kind(checkpoint, prefix, chosen)
    module = _without_memory(chosen)
    shapes = shapes_of(module)
    sources = _prefixed(shapes, prefix)
    timed = isinstance(chosen, UNetConfig)
    what, layout = ("U-Net", "guided-diffusion") if timed else ("DRUNet", "fsfast")
    check_fit(checkpoint, shapes, sources, _all, f"the {what} of {name}", _remedy(checkpoint, prefix, timed))
    notes = checkpoint.choice.note()
    if isinstance(chosen, UNetConfig):
        notes = (f"groups={chosen.groups} and head_channels={chosen.head_channels}: {name}", *notes)
    if not values:
        return Loaded(module, layout, (), notes)
    fill(module, checkpoint, sources)
    return Loaded(module, layout, checkpoint.files(), notes + storage_note(checkpoint))


def load_mapper(
    path: str | os.PathLike[str], *, weights: Weights | None = None, values: bool = True
) -> Loaded[Mapper]:
    """Load a smoothness mapper or a low-rank mapper; channels, blocks and rank are read off its weights.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either.
        weights: "raw" or "ema", where the file holds raw weights and their average.
        values: False compares names and shapes alone: the module has no memory, and no file is hashed.

    Returns:
        the mapper, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the tensors are not exactly those of a SmoothnessMapper or of a LowRankMapper; values are not
            finite; a file is missing, damaged, of another kind, has more in it than tensors, or not the weights that
            are meant.
        ValueError: weights are none of the two.
    """
    return mapper_of(Checkpoint(path, weights), values=values)


def mapper_of(checkpoint: Checkpoint, *, values: bool = True) -> Loaded[Mapper]:
    """Load the mapper of a checkpoint; see `load_mapper`."""
    prefix = _prefix(checkpoint)
    names = {name.removeprefix(prefix) for name in checkpoint.names}
    module, what = (_low_rank if _LOW_RANK & names else _smoothness)(checkpoint, prefix, names)
    shapes = shapes_of(module)
    sources = _prefixed(shapes, prefix)
    check_fit(checkpoint, shapes, sources, _all, what, "get the checkpoint again")
    notes = checkpoint.choice.note()
    if not values:
        return Loaded(module, "fsfast", (), notes)
    fill(module, checkpoint, sources)
    return Loaded(module, "fsfast", checkpoint.files(), notes + storage_note(checkpoint))


def _low_rank(checkpoint: Checkpoint, prefix: str, names: set[str]) -> tuple[Mapper, str]:
    """An empty low-rank mapper of the sizes that a checkpoint shows, and what it is in words."""
    shape = checkpoint.shape(f"{prefix}down") if "down" in names else ()
    if len(shape) != 2 or not 1 <= shape[1] <= shape[0]:
        raise CheckpointError(
            f"{checkpoint.path}: wanted down as [D, rank] with a rank in 1…D, got {list(shape)}; get it again"
        )
    dim, rank = shape
    with torch.device("meta"):
        return LowRankMapper(dim, rank), f"a low-rank mapper of rank {rank} for {dim} channels"


def _smoothness(checkpoint: Checkpoint, prefix: str, names: set[str]) -> tuple[Mapper, str]:
    """An empty smoothness mapper of the sizes that a checkpoint shows, and what it is in words."""
    path = checkpoint.path
    if "blocks.0.gain" in names:
        raise CheckpointError(
            f"{path}: a mapper that was folded at one sigma, which cannot be undone; give the weights of training"
        )
    if not {"blocks.0.scale", "blocks.0.film.0.weight"} & names:
        raise CheckpointError(
            f"{path}: wanted a smoothness mapper (blocks.0.scale, blocks.0.film.0.weight, …) or a low-rank one "
            f"(down, up), got {', '.join(sorted(names)[:3])}, …; choose another checkpoint"
        )
    shape = checkpoint.shape(f"{prefix}blocks.0.scale") if "blocks.0.scale" in names else ()
    if len(shape) != 1 or shape[0] % HEAD_DIM or not shape[0]:
        raise CheckpointError(
            f"{path}: wanted blocks.0.scale as [D] with D a multiple of {HEAD_DIM}, got {list(shape)}; get it again"
        )
    blocks = 1 + max(int(match[1]) for name in names if (match := re.match(r"blocks\.(\d{1,3})\.", name)))
    with torch.device("meta"):
        module = SmoothnessMapper(shape[0], blocks)
    return module, f"a smoothness mapper of {blocks} blocks for {shape[0]} channels"


def kind_of(
    checkpoint: Checkpoint,
) -> Literal["U-Net", "DRUNet", "smoothness mapper", "low-rank mapper"] | None:
    """Return which of these a checkpoint is by its names, whole or not; None for none of them."""
    prefix = _prefix(checkpoint)
    names = {name.removeprefix(prefix) for name in checkpoint.names}
    if {"blocks.0.gain", "blocks.0.film.0.weight"} & names:
        return "smoothness mapper"
    if names == _LOW_RANK:
        return "low-rank mapper"
    if _DRUNET & names:
        return "DRUNet"
    unet = {"time_embed.0.weight", "input_blocks.0.0.weight", "down_blocks.0.resnets.0.conv1.weight"}
    return "U-Net" if unet & names else None


def _all(name: str) -> bool:
    return True


def _prefix(checkpoint: Checkpoint) -> str:
    """What stands before every name because something stood around the network when it was saved."""
    prefixes = {match[0] if (match := _AROUND.match(name)) else "" for name in checkpoint.names}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _prefixed(shapes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, Source]:
    return {weight: Source((prefix + weight,)) for weight in shapes}


def _without_memory(config: DenoiserConfig) -> Denoiser:
    with torch.device("meta"):
        return new_denoiser(config)


def _check_kind(checkpoint: Checkpoint, prefix: str, config: DenoiserConfig) -> None:
    """Refuse a U-Net's weights for a DRUNet, and the other way round: no name would fit."""
    names = {name.removeprefix(prefix) for name in checkpoint.names}
    kinds = ("U-Net", _UNET), ("DRUNet", _DRUNET)
    (wanted, _), (other, others) = kinds if isinstance(config, UNetConfig) else kinds[::-1]
    if others & names:
        raise CheckpointError(
            f"{checkpoint.path}: wanted a {wanted}, got a {other}; choose another checkpoint, or a {other}'s preset"
        )


def _nearest(checkpoint: Checkpoint, prefix: str) -> tuple[str, DenoiserConfig]:
    """The known configuration that has most names and shapes in common with a checkpoint."""
    names = {name.removeprefix(prefix) for name in checkpoint.names}
    if {"conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"} <= names:
        raise CheckpointError(
            f"{checkpoint.path}: wanted a U-Net in guided-diffusion's names, got one in diffusers'; take the file that "
            "it was made from, 256x256_diffusion_uncond.pt for adm256"
        )
    if not (_UNET | _DRUNET) & names:
        raise CheckpointError(
            f"{checkpoint.path}: wanted a U-Net in guided-diffusion's names (input_blocks.0.0.weight, …), or a DRUNet "
            f"(middle.0.conv1.weight, …), got {', '.join(sorted(names)[:3])}, …; choose another checkpoint"
        )
    fits, drunet = {}, bool(_DRUNET & names)
    for preset, config in PURIFIERS.items():
        if isinstance(config, DRUNetConfig) != drunet:
            continue
        shapes = shapes_of(_without_memory(config))
        same = sum(checkpoint.shape(prefix + name) == shapes[name] for name in shapes.keys() & names)
        # Both ways: a small network must not win by being part of a large one.
        fits[preset] = same / len(shapes.keys() | names)
    best = max(fits, key=lambda preset: fits[preset])
    return best, PURIFIERS[best]


def _remedy(checkpoint: Checkpoint, prefix: str, timed: bool) -> str:
    presets = [name for name, config in PURIFIERS.items() if isinstance(config, UNetConfig) == timed]
    general = f"choose one of {', '.join(presets)}, or give the config that the weights have"
    if not timed:
        return general
    names = {name.removeprefix(prefix) for name in checkpoint.names}
    if "label_emb.weight" in names:
        return "this network wants a class; the unconditional one is 256x256_diffusion_uncond.pt"
    out = checkpoint.shape(f"{prefix}out.2.weight") if "out.2.weight" in names else ()
    if out[:1] == (3,):
        return (
            "this network was trained without variances (learn_sigma False), and has 3 outputs instead of 6; choose "
            "one with them, or give its config"
        )
    if "time_embed.0.weight" not in names:
        return "it has no time embedding: folded at one sigma, which cannot be undone; give the weights of training"
    return general
