"""What a checkpoint is: by its names, its shapes and the files beside it; no values are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, get_args

from fsfast.errors import CheckpointError
from fsfast.models.averages import OtherWeights, SeveralStateDicts, Weights
from fsfast.models.checkpoints.efficientnet import LAYOUT as EFFICIENTNET_LAYOUT
from fsfast.models.checkpoints.efficientnet import (
    LITE0,
    PREPARATION,
    counts_of_batches,
    efficientnet_of,
    is_efficientnet,
)
from fsfast.models.checkpoints.encoder import assembled, empty_tower, only_tower
from fsfast.models.checkpoints.families import FAMILIES
from fsfast.models.checkpoints.files import refuse_types
from fsfast.models.checkpoints.foreign import TIMM_VIT, ForeignNetwork
from fsfast.models.checkpoints.layouts import Tower, find_towers
from fsfast.models.checkpoints.matching import Differences, differences, stored_shapes
from fsfast.models.checkpoints.names import TIMM
from fsfast.models.checkpoints.nearest import Nearest, nearest
from fsfast.models.checkpoints.networks import PURIFIERS, kind_of, mapper_of, purifier_of
from fsfast.models.checkpoints.preparation import preparation_said
from fsfast.models.checkpoints.settings import Settings, settings_said
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.checkpoints.shown import shown_by
from fsfast.models.low_rank_mapper import LowRankMapper
from fsfast.models.vit_config import ViTConfig

TOWER, WEIGHTS, CONVOLUTIONAL = "image tower", "the weights", "convolutional encoder"
_LAYER_SCALE = "transformer.resblocks.0.ls_1.gamma"
_PREPARATION = ("mean", "std", "fit", "filter")
# Neither changes a name or a shape.
_PLACEHOLDERS = {"heads": 1, "activation": "gelu"}
# Patches along a side of pictures where nothing says it.
_USUAL_SIDE = 14
_USUAL_SIDE_OF_QWEN = 32


@dataclass(frozen=True)
class Said:
    """A value, and who says it."""

    value: Any
    by: str


@dataclass(frozen=True)
class Inspection:
    """What is known of a checkpoint.

    Attributes:
        path: of the weights.
        kind: "image tower", "convolutional encoder", "U-Net", "DRUNet", "smoothness mapper", "low-rank mapper",
            what a network of another kind is, as "a ResNet", or "weights of an unknown layout".
        family: of a tower, as "CLIP"; of a convolutional encoder, as "EfficientNet-Lite0"; of a U-Net or a DRUNet the
            preset that it is; else "".
        layout: whose names it has, "" where nobody's.
        prefix: what stands before a tower's names.
        model: what the config.json beside the weights calls it, "" without.
        state_dicts: keys under which the file has tensors, the one that is described first; empty where nothing is
            around them.
        weights: which of raw and averaged ones were asked for.
        tensors, parameters: of the network, as far as they are there.
        dtypes: of its tensors.
        fields: of a tower's ViTConfig: those that are not the default, or that somebody says besides the weights.
        unknown: fields that nobody says, and that the caller has to.
        config: of a tower; what is unknown is a placeholder in it.
        projection: whether a CLIP's tower comes with its projection.
        preparation: mean, std, fit and filter of pictures.
        outputs: those of an encoder, as --output names them → (tokens, channels).
        differences: between the checkpoint and what the network needs.
        nearest: of a layout that nobody knows.
        problem: why it cannot be used, None where it can.
    """

    path: Path
    kind: str = "weights of an unknown layout"
    family: str = ""
    layout: str = ""
    prefix: str = ""
    model: str = ""
    state_dicts: tuple[str, ...] = ()
    weights: Weights | None = None
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    fields: Mapping[str, Said] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    config: ViTConfig | None = None
    projection: bool = False
    preparation: Mapping[str, Said] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    differences: Differences | None = None
    nearest: Nearest | None = None
    problem: str | None = None


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    heads: int | None = None,
    activation: str | None = None,
    weights: Weights | None = None,
) -> Inspection:
    """Say what a checkpoint is.

    Args:
        path: a weights file, an index of shards, or a directory with either.
        heads: of a tower whose files do not say them.
        activation: likewise, as in ViTConfig.
        weights: "raw" or "ema", where the file holds raw weights and their average.

    Returns:
        what is known, and what is wrong with it.

    Raises:
        CheckpointError: no such file, or one that holds no tensors to look at: of another kind, damaged, or with more
            in it than tensors.
        ValueError: weights are none of the two.
    """
    refused = None
    try:
        checkpoint = Checkpoint(path, weights)
    except (SeveralStateDicts, OtherWeights) as error:
        refused = str(error)
        either = _either(path)
        if either is None:
            return Inspection(Path(path), weights=weights, problem=refused.removeprefix(f"{path}: "))
        checkpoint = either
    given = {
        name: value for name, value in (("heads", heads), ("activation", activation)) if value is not None
    }
    found = _inspected(checkpoint, given)
    if found.problem is None:
        found = _without_odd_types(found)
    keys = checkpoint.choice.keys
    found = replace(found, model=_called(checkpoint), state_dicts=keys, weights=weights)
    problem = refused or found.problem
    return found if problem is None else replace(found, problem=problem.removeprefix(f"{checkpoint.path}: "))


def _either(path: str | os.PathLike[str]) -> Checkpoint | None:
    """The raw weights of a checkpoint, or else the averaged ones; None where each are several."""
    for weights in get_args(Weights):
        try:
            return Checkpoint(path, weights)
        except (SeveralStateDicts, OtherWeights):
            continue
    return None


def _without_odd_types(found: Inspection) -> Inspection:
    try:
        refuse_types(found.path, found.dtypes)
    except CheckpointError as error:
        return replace(found, problem=str(error))
    return found


def _called(checkpoint: Checkpoint) -> str:
    """The words of transformers, or those of timm."""
    record = checkpoint.settings("config.json") or {}
    said = record.get("model_type"), record.get("architecture")
    return next((name for name in said if isinstance(name, str)), "")


def _inspected(checkpoint: Checkpoint, given: dict[str, Any]) -> Inspection:
    kind = kind_of(checkpoint)
    if kind is not None:
        return _network(checkpoint, kind)
    if is_efficientnet(checkpoint.names):
        return _efficientnet(checkpoint)
    try:
        tower = only_tower(checkpoint)
    except ForeignNetwork as error:
        found = Inspection(checkpoint.path, error.kind.what, problem=str(error))
        return _counted(found, checkpoint, checkpoint.names)
    except CheckpointError as error:
        near = None if find_towers(checkpoint.names) else nearest(checkpoint)
        return Inspection(checkpoint.path, tensors=len(checkpoint.names), nearest=near, problem=str(error))
    found = Inspection(checkpoint.path, TOWER, tower.family, tower.layout.name, tower.prefix)
    try:
        found = _counted(found, checkpoint, tower.own)
        if tower.layout.name == TIMM and tower.has("class_embedding") and not tower.has(_LAYER_SCALE):
            raise ForeignNetwork(checkpoint.path, TIMM_VIT)
        return _tower(checkpoint, tower, found, given)
    except ForeignNetwork as error:
        return replace(found, kind=error.kind.what, family="", problem=str(error))
    except CheckpointError as error:
        return replace(found, problem=str(error))


def _network(checkpoint: Checkpoint, kind: str) -> Inspection:
    """A U-Net, a DRUNet or a mapper."""
    found = Inspection(checkpoint.path, kind, layout="guided-diffusion" if kind == "U-Net" else "fsfast")
    try:
        if kind.endswith("mapper"):
            mapper = mapper_of(checkpoint, values=False).module
            sizes = {"dim": mapper.dim}
            sizes |= (
                {"rank": mapper.rank} if isinstance(mapper, LowRankMapper) else {"blocks": len(mapper.blocks)}
            )
            found = replace(found, fields={name: Said(value, WEIGHTS) for name, value in sizes.items()})
        else:
            config = purifier_of(checkpoint, values=False).module.config
            found = replace(found, family=next(name for name, own in PURIFIERS.items() if own == config))
    except CheckpointError as error:
        found = replace(found, problem=str(error))
    return _counted(found, checkpoint, checkpoint.names)


def _efficientnet(checkpoint: Checkpoint) -> Inspection:
    found = Inspection(checkpoint.path, CONVOLUTIONAL, LITE0, EFFICIENTNET_LAYOUT)
    try:
        config = efficientnet_of(checkpoint, values=False).module.config
        found = replace(
            found,
            preparation={name: Said(getattr(PREPARATION, name), PREPARATION.by) for name in _PREPARATION},
            outputs={output: config.feature_shape(output) for output in ("pooled", "tokens")},
        )
    except CheckpointError as error:
        found = replace(found, problem=str(error))
    return _counted(found, checkpoint, checkpoint.names - counts_of_batches(checkpoint.names))


def _counted(found: Inspection, checkpoint: Checkpoint, names: Iterable[str]) -> Inspection:
    shapes = {name: checkpoint.shape(name) for name in names}
    return replace(
        found,
        tensors=len(shapes),
        parameters=sum(map(math.prod, shapes.values())),
        dtypes=tuple(sorted({checkpoint.dtype(name) for name in shapes})),
    )


def _tower(checkpoint: Checkpoint, tower: Tower, found: Inspection, given: dict[str, Any]) -> Inspection:
    sizes, shown = shown_by(checkpoint, tower)
    said = settings_said(checkpoint, tower, sizes)
    _check_given(given, said)
    every = f"as in every published {tower.family}"
    known = FAMILIES[tower.family].known(sizes, tower.gated)
    lacking = {name: value for name, value in said.kind.items() if value != shown.get(name)}
    # The last word first; the rest is what the weights show.
    sources = ((said.fields, said.by), (lacking, every), (given, "the caller"), (known, every))
    by = {name: who for values, who in reversed(sources) for name in values}
    fields = {**known, **given, **shown, **said.kind, **said.fields}
    if tower.layout.qwen:
        multiple = sizes.patch * max(fields.get("window", 0), fields["merge"])
        fields["image_size"] = (sizes.side or _USUAL_SIDE_OF_QWEN) * sizes.patch
        by["image_size"] = f"usual; it may be any multiple of {multiple}"
    elif sizes.side is None and "image_size" not in fields:
        fields["image_size"] = _USUAL_SIDE * sizes.patch
        by["image_size"] = f"usual; without learned positions it may be any multiple of {sizes.patch}"
    unknown = tuple(name for name in _PLACEHOLDERS if name not in fields)
    config = assembled(checkpoint, tower, sizes, _PLACEHOLDERS | fields)
    if config.projection and not tower.projection:
        config = replace(config, embed_dim=config.width)
    _, shapes, weights = empty_tower(tower, config)
    wanted = stored_shapes(shapes, weights)
    different = differences(checkpoint, wanted, tower.concerns)
    problem = None
    if text := str(different):
        problem = (
            f"wanted {len(wanted)} tensors as a {tower.family} of {sizes.layers} blocks has them; {text}"
        )
    return replace(
        _counted(found, checkpoint, wanted.keys() & checkpoint.names),
        fields={
            each.name: Said(getattr(config, each.name), by.get(each.name, WEIGHTS))
            for each in dataclass_fields(config)
            if each.name not in unknown and (each.name in by or getattr(config, each.name) != each.default)
            if getattr(config, each.name) is not None
        },
        unknown=unknown,
        config=config,
        projection=tower.projection,
        preparation=_preparation(checkpoint, tower.family),
        outputs=_outputs(config, tower.projection),
        differences=different,
        problem=problem,
    )


def _check_given(given: Mapping[str, Any], said: Settings) -> None:
    for name, value in given.items():
        if (own := said.fields.get(name, value)) != value:
            raise CheckpointError(f"the caller says {name}={value}, and {said.by} says {own}; leave it out")


def _preparation(checkpoint: Checkpoint, family: str) -> dict[str, Said]:
    usual, said = FAMILIES[family].preparation, preparation_said(checkpoint)
    return {
        name: Said(getattr(who, name), who.by)
        for name in _PREPARATION
        for who in [said if said is not None and getattr(said, name) is not None else usual]
    }


def _outputs(config: ViTConfig, projection: bool) -> dict[str, tuple[int, int]]:
    tokens = config.patches, config.width
    outputs = {"penultimate": tokens, "tokens": tokens}
    if config.final_norm:
        outputs["tokens+ln_post"] = tokens
    if config.merge > 1:
        outputs["merged"] = config.feature_shape("merged")
    if config.pooling != "none" and (projection or not config.projection):
        outputs["pooled"] = 1, config.embed_dim
    return outputs
