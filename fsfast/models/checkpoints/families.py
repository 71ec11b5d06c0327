"""What every published tower of a family has; for towers whose files do not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fsfast.models.checkpoints.preparation import Preparation
from fsfast.models.checkpoints.shown import Sizes
from fsfast.models.vit_config import BIASES, Activation, ViTConfig

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Family:
    """A family of towers.

    Attributes:
        config: its flags and constants, at the smallest size.
        heads: (width, blocks, hidden channels of an MLP) → heads.
        preparation: of pictures.
        activation: of all that have no gates; None where that differs.
    """

    config: ViTConfig
    heads: Mapping[tuple[int, int, int], int]
    preparation: Preparation
    activation: Activation | None = "gelu"

    def known(self, sizes: Sizes, gated: bool) -> dict[str, Any]:
        """Return the fields of ViTConfig that weights do not show, as far as published towers agree about them."""
        fields: dict[str, Any] = {"norm_eps": self.config.norm_eps}
        for name in _HIDDEN:
            if (value := getattr(self.config, name)) != getattr(_CLIP, name):
                fields[name] = value
        if heads := self.heads.get((sizes.width, sizes.layers, sizes.hidden)):
            fields["heads"] = heads
        if activation := "silu_gated" if gated else self.activation:
            fields["activation"] = activation
        return fields


def _prepared(
    name: str, channels: tuple[tuple[float, ...], tuple[float, ...]], fit: str, filter_: str = "bicubic"
) -> Preparation:
    return Preparation(f"usual for {name}, no file beside the weights says it", *channels, fit, filter_)


# Fields of ViTConfig that weights do not show, besides norm_eps, heads and activation.
_HIDDEN = ("rope_theta", "rope_grid", "pool_heads", "taps", "window", "full_layers")
# Width, blocks, hidden channels.
_S, _B, _L, _H = (384, 12, 1536), (768, 12, 3072), (1024, 24, 4096), (1280, 32, 5120)
_CLIP = ViTConfig(width=4, layers=1, heads=1, patch=1, image_size=1, embed_dim=4)
_SIGLIP = replace(
    _CLIP, class_token=False, pre_norm=False, norm_eps=1e-6, biases=BIASES, pooling="map", projection=False
)
_DINOV2 = replace(_SIGLIP, class_token=True, layer_scale=True, pooling="cls")
_DINOV3 = replace(
    _DINOV2,
    registers=4,
    norm_eps=1e-5,
    biases=tuple(part for part in BIASES if part != "k"),
    learned_positions=False,
    rope_theta=100.0,
)
_QWEN2 = replace(
    _CLIP,
    image_size=2,
    class_token=False,
    pre_norm=False,
    norm_eps=1e-6,
    learned_positions=False,
    rope_theta=10000.0,
    rope_grid="from_0",
    pooling="none",
    projection=False,
    merge=2,
)
# Windows are counted in patches, and the smallest picture has one.
_QWEN2_5 = replace(
    _QWEN2,
    norm="rms",
    layers=32,
    window=8,
    full_layers=(7, 15, 23, 31),
    activation="silu_gated",
    image_size=8,
)
_QWEN3 = replace(_QWEN2, layers=27, taps=(8, 16, 24), biases=BIASES, learned_positions=True)
_PERCEPTION = replace(
    _CLIP, rope_theta=10000.0, rope_grid="from_1", pooling="map", width=8, heads=2, pool_heads=8
)
_PERCEPTION_SIZES = {(192, 12, 768): 3, _S: 6, _B: 12, _L: 16}
FAMILIES: Mapping[str, Family] = {
    "CLIP": Family(_CLIP, {_B: 12, _L: 16, _H: 16}, _prepared("CLIP", _CLIP_MEAN, "crop"), None),
    # timm and the authors differ about its GELU.
    "SigLIP": Family(
        _SIGLIP,
        {_B: 12, _L: 16, (1152, 27, 4304): 16},
        _prepared("SigLIP", _HALF, "squash"),
        None,
    ),
    "DINOv2": Family(
        _DINOV2,
        {_S: 6, _B: 12, _L: 16, (1536, 40, 4096): 24},
        _prepared("DINOv2", _IMAGENET, "crop"),
    ),
    "DINOv3": Family(
        _DINOV3,
        {_S: 6, _B: 12, _L: 16, _H: 20},
        _prepared("DINOv3", _IMAGENET, "squash", "bilinear"),
    ),
    "InternViT": Family(
        replace(_DINOV2, final_norm=False, pooling="none"),
        {_L: 16},
        _prepared("InternViT", _IMAGENET, "squash"),
    ),
    "Qwen2-VL": Family(
        _QWEN2, {(1280, 32, 5120): 16}, _prepared("Qwen2-VL", _CLIP_MEAN, "squash"), "quick_gelu"
    ),
    "Qwen2.5-VL": Family(_QWEN2_5, {(1280, 32, 3420): 16}, _prepared("Qwen2.5-VL", _CLIP_MEAN, "squash")),
    "Qwen3-VL": Family(
        _QWEN3, {_L: 16, (1152, 27, 4304): 16}, _prepared("Qwen3-VL", _HALF, "squash"), "gelu_tanh"
    ),
    "Perception Encoder": Family(
        _PERCEPTION, _PERCEPTION_SIZES, _prepared("Perception Encoder", _HALF, "squash", "bilinear")
    ),
    "Perception Encoder G": Family(
        replace(_PERCEPTION, class_token=False, rope_grid="from_0"),
        {(1536, 50, 8960): 16},
        _prepared("Perception Encoder", _HALF, "squash", "bilinear"),
    ),
}
