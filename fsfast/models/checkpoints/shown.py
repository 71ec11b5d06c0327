"""What the weights of an image tower show of its configuration: by which there are, and by their shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.layouts import Tower
from fsfast.models.checkpoints.matching import gathered, remedy_for
from fsfast.models.checkpoints.names import OPEN_CLIP, PERCEPTION
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.vit_config import BIASES

_BLOCK = "transformer.resblocks.0."
_C_FC = f"{_BLOCK}mlp.c_fc.weight"
_MERGER_IN, _MERGER_OUT = "merger.c_fc.weight", "merger.c_proj.weight"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tower: see ViTConfig for the fields.

    Attributes:
        side: patches along one side of the image; None where nothing says it.
        hidden: the width of the MLP.
    """

    width: int
    layers: int
    patch: int
    side: int | None
    hidden: int


def shown_by(checkpoint: Checkpoint, tower: Tower) -> tuple[Sizes, dict[str, Any]]:
    """Return sizes and the fields of ViTConfig that the weights show.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or of a shape that no tower of ours has.
    """
    dims = {"conv1.weight": 4, _C_FC: 2}
    # A tower of open_clip always has positions: without, something is missing.
    if tower.layout.name in (OPEN_CLIP, PERCEPTION) or tower.has("positional_embedding"):
        dims["positional_embedding"] = 2
    for weight, ndim in (("register_tokens", 2), ("proj", 2), (_MERGER_IN, 2), (_MERGER_OUT, 2)):
        if tower.projection if weight == "proj" else tower.has(weight):
            dims[weight] = ndim
    shapes = {weight: _shape(checkpoint, tower, weight, ndim) for weight, ndim in dims.items()}
    width, patch, hidden = shapes["conv1.weight"][0], shapes["conv1.weight"][2], shapes[_C_FC][0]
    if tower.gated:
        hidden //= 2
    class_token = tower.has("class_embedding")
    side = None
    if "positional_embedding" in shapes:
        patches = shapes["positional_embedding"][0] - class_token
        side = math.isqrt(max(patches, 0))
        if side * side != patches or side == 0:
            raise CheckpointError(
                f"{checkpoint.path}: wanted positions for a square of patches, got {patches} patches; "
                "VisionTransformer takes square images alone; choose a tower for square ones"
            )
    fields = {
        "embed_dim": shapes["proj"][1] if tower.projection else width,
        "class_token": class_token,
        "registers": shapes["register_tokens"][0] if "register_tokens" in shapes else 0,
        "pre_norm": tower.has("ln_pre.weight"),
        "norm": "layer" if tower.has(f"{_BLOCK}ln_1.bias") else "rms",
        "biases": _biases(tower),
        "learned_positions": side is not None,
        "layer_scale": tower.has(f"{_BLOCK}ls_1.gamma"),
        "final_norm": tower.has("ln_post.weight"),
    }
    if _MERGER_IN in shapes and _MERGER_OUT in shapes:
        fields |= {"merge": math.isqrt(shapes[_MERGER_IN][1] // width), "embed_dim": shapes[_MERGER_OUT][0]}
    return Sizes(width, tower.blocks(), patch, side, hidden), fields


def _biases(tower: Tower) -> tuple[str, ...]:
    attention = tower.source(f"{_BLOCK}attn.in_proj_bias").names
    # One tensor stands for all three.
    parts = attention * 3 if len(attention) == 1 else attention
    there = {part for part, name in zip("qkv", parts, strict=True) if name in tower.names}
    rest = {"o": f"{_BLOCK}attn.out_proj.bias", "mlp": f"{_BLOCK}mlp.c_fc.bias", "patch": "conv1.bias"}
    there |= {part for part, weight in rest.items() if tower.has(weight)}
    return tuple(part for part in BIASES if part in there)


def _shape(checkpoint: Checkpoint, tower: Tower, weight: str, ndim: int) -> tuple[int, ...]:
    """The shape of a weight as the module has it."""
    source = tower.source(weight)
    for name in source.stored:
        if name not in checkpoint.names:
            remedy = remedy_for(
                checkpoint.path, "give the ViTConfig if it is made otherwise; else get it again"
            )
            raise CheckpointError(f"{checkpoint.path}: an image tower without {name}. Remedy: {remedy}")
    shape = checkpoint.shape(source.stored[0])
    gathered(checkpoint.path, {source.stored[0]: shape})
    own = shape[source.leading :]
    wanted = ndim + source.leading + bool(source.frames)
    if len(shape) != wanted or 0 in own:
        raise CheckpointError(
            f"{checkpoint.path}: wanted {source.stored[0]} with {wanted} axes, got {list(shape)}"
        )
    if source.frames:
        return (*own[:2], *own[3:])
    if source.transposed:
        return own[::-1]
    return (own[0] * len(source.stored) + source.zeros, *own[1:])
