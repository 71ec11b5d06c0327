"""What the weights of an image tower do not show: attention heads and the activation; and who says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.layouts import OPEN_CLIP, TRANSFORMERS, Tower
from fsfast.models.checkpoints.shards import Checkpoint

_FILE = {TRANSFORMERS: "config.json", OPEN_CLIP: "open_clip_config.json"}
# (width, blocks) → heads of ViT-B, ViT-L and ViT-H, in every release of CLIP.
_USUAL_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_EPSILON = 1e-5
# Of a CLIPVisionConfig: what its JSON leaves out.
_TRANSFORMERS_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": _EPSILON,
}
# Of open_clip's vision_cfg: settings of training, or visible in the weights.
_OPEN_CLIP_HARMLESS = {
    "patch_dropout",
    "output_tokens",
    "pos_embed_type",
    "attn_pooler_queries",
    "attn_pooler_heads",
}


@dataclass(frozen=True)
class Sizes:
    """What the weights of a tower show: see ViTConfig for the fields; `hidden` is the width of the MLP."""

    width: int
    layers: int
    patch: int
    image_size: int
    hidden: int


@dataclass(frozen=True)
class Settings:
    """What they do not show.

    Attributes:
        heads: attention heads per block, None if nobody says.
        quick_gelu: None if nobody says.
        by: who says it.
    """

    heads: int | None
    quick_gelu: bool | None
    by: str


def settings_said(checkpoint: Checkpoint, tower: Tower, sizes: Sizes) -> Settings:
    """Read what a checkpoint says about itself: in the JSON file beside the weights, or by what OpenAI's files have.

    Raises:
        CheckpointError: the JSON file contradicts the weights, or asks for what VisionTransformer does not do.
    """
    file = _FILE[tower.layout]
    record = checkpoint.settings(file)
    try:
        parse = _from_transformers if tower.layout == TRANSFORMERS else _from_open_clip
        said = parse(record, sizes) if record is not None else None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: {file}: {error}; if the file belongs to other weights, give the path of the weights "
            "file alone, and a ViTConfig"
        ) from None
    if said is not None:
        return Settings(*said, file)
    if tower.openai:
        return Settings(None, True, "a file of OpenAI's, which has input_resolution")
    vision = (record or {}).get("mm_vision_tower")
    if isinstance(vision, str) and vision.startswith("openai/clip-"):
        return Settings(None, True, f"{file} with {vision!r}")
    return Settings(None, None, "nobody")


def usual_heads(checkpoint: Checkpoint, sizes: Sizes) -> int:
    """Return the attention heads that every CLIP of these sizes has.

    Raises:
        CheckpointError: the sizes are those of no ViT-B, ViT-L or ViT-H.
    """
    heads = _USUAL_HEADS.get((sizes.width, sizes.layers))
    # A tower that lacks its last blocks looks whole by itself, so that only whole ones of known kinds pass.
    if heads is None or sizes.hidden != 4 * sizes.width:
        raise CheckpointError(
            f"{checkpoint.path}: a tower of width {sizes.width} with {sizes.layers} blocks and MLPs of {sizes.hidden} "
            "is not one of CLIP's ViT-B, ViT-L, ViT-H, so its attention heads are not known; give a ViTConfig"
        )
    return heads


def _from_transformers(record: dict[str, Any], sizes: Sizes) -> tuple[int, bool] | None:
    """Heads and QuickGELU in config.json of a CLIP, of its vision half, or of a model around one."""
    vision = record.get("vision_config", record)
    if vision is None or vision.get("model_type", record.get("model_type")) not in (
        "clip",
        "clip_vision_model",
    ):
        return None
    said = _TRANSFORMERS_DEFAULTS | {
        k: v for k, v in vision.items() if k in _TRANSFORMERS_DEFAULTS and v is not None
    }
    shown = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "patch_size": sizes.patch,
        "image_size": sizes.image_size,
        "intermediate_size": sizes.hidden,
        "num_channels": 3,
        "layer_norm_eps": _EPSILON,
    }
    _compare(said, shown)
    if said["hidden_act"] not in _ACTIVATIONS:
        raise ValueError(f"wanted hidden_act as one of {', '.join(_ACTIVATIONS)}, got {said['hidden_act']!r}")
    return _whole(said["num_attention_heads"], "num_attention_heads"), _ACTIVATIONS[said["hidden_act"]]


def _from_open_clip(record: dict[str, Any], sizes: Sizes) -> tuple[int, bool]:
    """Heads and QuickGELU in open_clip_config.json."""
    model = record.get("model_cfg", record)
    vision = dict(model.get("vision_cfg") or {})
    said = {
        "width": vision.pop("width", 768),
        "layers": vision.pop("layers", 12),
        "patch_size": vision.pop("patch_size", 16),
        "image_size": vision.pop("image_size", 224),
        "hidden": int(sizes.width * vision.pop("mlp_ratio", 4.0)),
    }
    shown = {
        "width": sizes.width,
        "layers": sizes.layers,
        "patch_size": sizes.patch,
        "image_size": sizes.image_size,
        "hidden": sizes.hidden,
    }
    _compare(said, shown)
    head_width = _whole(vision.pop("head_width", 64), "head_width")
    if sizes.width % head_width:
        raise ValueError(f"head_width={head_width} does not divide the width, {sizes.width}")
    for name, value in vision.items():
        harmless = name in _OPEN_CLIP_HARMLESS or name.startswith("timm_")
        if value and not harmless and (name, value) != ("pool_type", "tok"):
            raise ValueError(f"{name}={value!r} asks for something that VisionTransformer does not do")
    return sizes.width // head_width, bool(model.get("quick_gelu", False))


def _compare(said: dict[str, Any], shown: dict[str, Any]) -> None:
    for name, value in shown.items():
        if said[name] != value:
            raise ValueError(f"it says {name}={said[name]!r}, and the weights {value!r}")


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"wanted {name} as a whole number of at least 1, got {value!r}")
    return value
