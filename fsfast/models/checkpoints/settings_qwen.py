"""What config.json says of the image towers of Qwen-VL; of transformers' three classes, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsfast.models.checkpoints.layouts import Tower
from fsfast.models.checkpoints.settings_values import activation, compare, whole, wholes
from fsfast.models.checkpoints.shown import Sizes

_BASE = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN2 = _BASE | {"embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584, "hidden_act": "quick_gelu"}
_QWEN2_5 = _BASE | {
    **{"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "hidden_act": "silu"},
    **{"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
}
_QWEN3 = _BASE | {
    **{
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "patch_size": 16,
        "out_hidden_size": 3584,
    },
    **{"hidden_act": "gelu_pytorch_tanh", "num_position_embeddings": 2304},
    **{"deepstack_visual_indexes": [8, 16, 24]},
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_vision"), _QWEN2),
    **dict.fromkeys(("qwen2_5_vl", "qwen2_5_vl_vision"), _QWEN2_5),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_vision"), _QWEN3),
}
KINDS = frozenset(_DEFAULTS)
# In no configuration: constants of the classes.
_CONSTANTS = {"norm_eps": 1e-6, "rope_theta": 10000.0, "rope_grid": "from_0", "pooling": "none"}
KIND = {"class_token": False, "registers": 0, "pre_norm": False, "final_norm": True, "layer_scale": False}


def qwen_fields(kind: str, vision: Mapping[str, Any], sizes: Sizes, tower: Tower) -> dict[str, Any]:
    """Return the fields of ViTConfig that a vision_config says and weights do not show, but for image_size.

    Args:
        kind: its model_type, one of KINDS.
        vision: what it says.
        sizes: that the weights show.
        tower: the tower.

    Raises:
        ValueError: it contradicts the weights, or a value is not what it may be.
    """
    said = {**_DEFAULTS[kind], **{k: v for k, v in vision.items() if v is not None}}
    # Qwen2-VL calls the language model's width hidden_size, and has a ratio.
    older = _DEFAULTS[kind] is _QWEN2
    own = said["embed_dim" if older else "hidden_size"]
    hidden = int(own * said["mlp_ratio"]) if older else said["intermediate_size"]
    merge = whole(said["spatial_merge_size"], "spatial_merge_size")
    compare(
        {**said, "width": own, "hidden": hidden},
        {"width": sizes.width, "hidden": sizes.hidden, "depth": sizes.layers, "patch_size": sizes.patch},
    )
    compare({"temporal_patch_size": said["temporal_patch_size"]}, {"temporal_patch_size": 2})
    if "num_position_embeddings" in said and sizes.side is not None:
        compare(said, {"num_position_embeddings": sizes.side**2})
    taps = wholes(said.get("deepstack_visual_indexes", []), "deepstack_visual_indexes")
    if len(taps) != (mergers := tower.count("deepstack.{}.c_fc.weight")):
        raise ValueError(
            f"it says deepstack_visual_indexes={list(taps)}, and the weights have {mergers} mergers"
        )
    window = 0
    if "window_size" in said:
        pixels = whole(said["window_size"], "window_size")
        # As transformers rounds it: whole squares of merged patches.
        window = pixels // merge // sizes.patch * merge
    rope = said.get("rope_parameters")
    theta = {"rope_theta": rope["rope_theta"]} if isinstance(rope, dict) and "rope_theta" in rope else {}
    return {
        **_CONSTANTS,
        **theta,
        "heads": whole(said["num_heads"], "num_heads"),
        "activation": "silu_gated" if tower.gated else activation(said["hidden_act"]),
        "merge": merge,
        "taps": taps,
        "window": window,
        "full_layers": wholes(said["fullatt_block_indexes"], "fullatt_block_indexes") if window else (),
    }
