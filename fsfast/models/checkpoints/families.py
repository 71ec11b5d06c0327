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
        if self.config.rope_theta is not None:
            fields["rope_theta"] = self.config.rope_theta
        if heads := self.heads.get((sizes.width, sizes.layers, sizes.hidden)):
            fields["heads"] = heads
        if activation := "silu_gated" if gated else self.activation:
            fields["activation"] = activation
        return fields


def _prepared(
    name: str, channels: tuple[tuple[float, ...], tuple[float, ...]], fit: str, filter_: str = "bicubic"
) -> Preparation:
    return Preparation(f"usual for {name}, no file beside the weights says it", *channels, fit, filter_)


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
}
