"""What the weights of an image tower do not show: heads, activation and constants; and who says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.families import FAMILIES
from fsfast.models.checkpoints.layouts import Tower
from fsfast.models.checkpoints.names import OPEN_CLIP, PERCEPTION, TRANSFORMERS
from fsfast.models.checkpoints.settings_qwen import KIND as OF_QWEN
from fsfast.models.checkpoints.settings_qwen import KINDS as QWEN
from fsfast.models.checkpoints.settings_qwen import qwen_fields
from fsfast.models.checkpoints.settings_values import activation, compare, number, whole
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.checkpoints.shown import Sizes
from fsfast.models.vit_config import BIASES

_FILE = {TRANSFORMERS: "config.json", OPEN_CLIP: "open_clip_config.json"}
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "num_channels": 3,
}
# Of transformers' configurations: what their JSON leaves out.
_CLIP = _BASE | {
    "intermediate_size": 3072,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP = _BASE | {
    "intermediate_size": 3072,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_DINOV2 = _BASE | {"patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}
_DINOV3 = _BASE | {
    **{"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "patch_size": 16},
    **{"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0, "use_gated_mlp": False},
}
_INTERNVIT = _BASE | {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    **{"image_size": 448, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2 | {"patch_size": 16},
    "dinov3_vit": _DINOV3,
    "internvl_vision": _INTERNVIT,
    # Of InternViT's authors, at every size.
    "intern_vit_6b": _INTERNVIT,
}
_QUICK_GELU = {"activation": "quick_gelu"}
# What every tower of a kind has; a checkpoint without it lacks something.
_OF_CLIP = {"class_token": True, "pre_norm": True, "norm": "layer", "biases": BIASES[:-1], "final_norm": True}
_OF_DINO = {"class_token": True, "pre_norm": False, "norm": "layer", "layer_scale": True, "final_norm": True}
_OF_SIGLIP = {"pre_norm": False, "norm": "layer", "biases": BIASES, "final_norm": True}
_OF_INTERNVIT = {"class_token": True, "pre_norm": False, "layer_scale": True, "final_norm": False}
_OF_DINOV2 = _OF_DINO | {"biases": BIASES}
_OF_KIND: Mapping[str, Mapping[str, Any]] = {
    "clip": _OF_CLIP,
    "clip_vision_model": _OF_CLIP,
    "siglip": _OF_SIGLIP,
    "siglip_vision_model": _OF_SIGLIP,
    "dinov2": _OF_DINOV2,
    "dinov2_with_registers": _OF_DINOV2,
    "dinov3_vit": _OF_DINO,
    "internvl_vision": _OF_INTERNVIT,
    "intern_vit_6b": _OF_INTERNVIT,
}
# Of open_clip's vision_cfg: settings of training, or visible in the weights.
_OPEN_CLIP_HARMLESS = {
    "patch_dropout",
    "output_tokens",
    "pos_embed_type",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "ls_init_value",
}


@dataclass(frozen=True)
class Settings:
    """What somebody says of a tower.

    Attributes:
        fields: of ViTConfig, those that weights do not show.
        by: who says it.
        kind: fields of ViTConfig that all towers of this kind have.
    """

    fields: Mapping[str, Any]
    by: str
    kind: Mapping[str, Any] = field(default_factory=dict)


def settings_said(checkpoint: Checkpoint, tower: Tower, sizes: Sizes) -> Settings:
    """Read what a checkpoint says about itself: in the JSON file beside the weights, or by what OpenAI's files have.

    Raises:
        CheckpointError: the JSON file contradicts the weights, or asks for what VisionTransformer does not do.
    """
    file = _FILE.get(tower.layout.name)
    record = checkpoint.settings(file) if file else None
    try:
        parse = _from_transformers if file == _FILE[TRANSFORMERS] else _from_open_clip
        said = parse(record, sizes, tower) if record is not None else None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: {file}: {error}; if the file belongs to other weights, give the path of the weights "
            "file alone, and a ViTConfig"
        ) from None
    if said is not None:
        return said
    if tower.layout.name == PERCEPTION:
        # As in CLIP's three sizes, heads are those of all published towers of a size.
        known = FAMILIES[tower.family].known(sizes, tower.gated)
        return Settings(known if "heads" in known else {}, f"as in every published {tower.family}")
    clip = _OF_CLIP if tower.has("class_embedding") and tower.layout.clip else {}
    if tower.openai:
        return Settings(_QUICK_GELU, "a file of OpenAI's, which has input_resolution", clip)
    vision = (record or {}).get("mm_vision_tower")
    if isinstance(vision, str) and vision.startswith("openai/clip-"):
        return Settings(_QUICK_GELU, f"{file} with {vision!r}", clip)
    return Settings({}, "nobody", clip)


def usual_heads(checkpoint: Checkpoint, tower: Tower, sizes: Sizes) -> int:
    """Return the attention heads that every CLIP of these sizes has.

    Raises:
        CheckpointError: it is no CLIP, or the sizes are those of no ViT-B, ViT-L or ViT-H.
    """
    clip = tower.layout.clip and tower.has("class_embedding")
    # A tower that lacks its last blocks looks whole by itself, so that only whole ones of known kinds pass.
    heads = FAMILIES["CLIP"].heads.get((sizes.width, sizes.layers, sizes.hidden)) if clip else None
    if heads is None:
        raise CheckpointError(
            f"{checkpoint.path}: a tower of width {sizes.width} with {sizes.layers} blocks and MLPs of {sizes.hidden} "
            "is not one of CLIP's ViT-B, ViT-L, ViT-H, so its attention heads are not known; give a ViTConfig, as "
            f"config=ViTConfig(width={sizes.width}, layers={sizes.layers}, heads=…), or the directory with its "
            f"{_FILE.get(tower.layout.name, 'configuration')}"
        )
    return heads


def in_words(activation: str) -> str:
    """Return the activation as load_encoder's caller says it."""
    if activation in ("quick_gelu", "gelu"):
        return f"quick_gelu={activation == 'quick_gelu'}"
    return f"activation={activation}"


def _from_transformers(record: dict[str, Any], sizes: Sizes, tower: Tower) -> Settings | None:
    """Settings in config.json of an image tower, of a model with one, or of its vision half."""
    vision = record.get("vision_config", record)
    kind = None if vision is None else vision.get("model_type", record.get("model_type"))
    if isinstance(kind, str) and kind in QWEN and tower.layout.qwen:
        return Settings(qwen_fields(kind, vision, sizes, tower), _FILE[TRANSFORMERS], OF_QWEN)
    if not isinstance(kind, str) or kind not in _DEFAULTS:
        return None
    defaults = _DEFAULTS[kind]
    known = {k: v for k, v in vision.items() if k in defaults and v is not None}
    # Height and width of some.
    squares = {k: v[0] for k, v in known.items() if isinstance(v, list) and len(set(v)) == 1}
    said = {**defaults, **known, **squares}
    shown = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "patch_size": sizes.patch,
        "intermediate_size": sizes.hidden,
        "num_channels": 3,
    }
    compare(said, {name: value for name, value in shown.items() if name in said})
    image_size = whole(said["image_size"], "image_size")
    if sizes.side is not None and image_size // sizes.patch != sizes.side:
        raise ValueError(f"it says image_size={image_size}, and the weights {sizes.side * sizes.patch}")
    gated = tower.gated
    if said.get("use_swiglu_ffn", said.get("use_gated_mlp", gated)) != gated:
        raise ValueError(
            f"it says {'no ' if gated else ''}gated MLPs, and the weights have {'' if gated else 'no '}gates"
        )
    fields = {
        "heads": whole(said["num_attention_heads"], "num_attention_heads"),
        "activation": "silu_gated" if gated else activation(said["hidden_act"]),
        "norm_eps": number(said["layer_norm_eps"], "layer_norm_eps"),
        "image_size": image_size,
        "rope_theta": None if said.get("rope_theta") is None else number(said["rope_theta"], "rope_theta"),
    }
    return Settings(fields, _FILE[TRANSFORMERS], _OF_KIND[kind])


def _from_open_clip(record: dict[str, Any], sizes: Sizes, tower: Tower) -> Settings:
    """Settings in open_clip_config.json."""
    model = record.get("model_cfg", record)
    vision = dict(model.get("vision_cfg") or {})
    image_size = whole(vision.pop("image_size", 224), "image_size")
    said = {
        "width": vision.pop("width", 768),
        "layers": vision.pop("layers", 12),
        "patch_size": vision.pop("patch_size", 16),
        "image_size": image_size // sizes.patch * sizes.patch,
        "hidden": int(sizes.width * vision.pop("mlp_ratio", 4.0)),
    }
    shown = {
        "width": sizes.width,
        "layers": sizes.layers,
        "patch_size": sizes.patch,
        "image_size": (sizes.side or 0) * sizes.patch,
        "hidden": sizes.hidden,
    }
    compare(said, shown)
    head_width = whole(vision.pop("head_width", 64), "head_width")
    if sizes.width % head_width:
        raise ValueError(f"head_width={head_width} does not divide the width, {sizes.width}")
    # CLIPA; other combinations are nobody's.
    mean = vision.get("pool_type") == "avg" and bool(vision.get("final_ln_after_pool"))
    clipa = {"pool_type", "final_ln_after_pool", "no_ln_pre"} if mean else set()
    pre_norm = not (mean and vision.get("no_ln_pre"))
    for name, value in vision.items():
        harmless = name in _OPEN_CLIP_HARMLESS | clipa or name.startswith("timm_")
        if value and not harmless and (name, value) != ("pool_type", "tok"):
            raise ValueError(f"{name}={value!r} asks for something that VisionTransformer does not do")
    fields = {
        "heads": sizes.width // head_width,
        "activation": "quick_gelu" if model.get("quick_gelu", False) else "gelu",
        "norm_eps": 1e-5,
        "image_size": image_size,
        "pooling": "mean" if mean else "cls",
    }
    return Settings(fields, _FILE[OPEN_CLIP], _OF_CLIP | {"pre_norm": pre_norm})
