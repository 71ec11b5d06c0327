"""Checkpoints of towers that are no CLIP, by the names of transformers 5.24 and of DINOv2's authors; what they compute.

`test_parity.py` compares both with transformers where it is installed.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from fsfast.models import ViTConfig

ALL = ("q", "k", "v", "o", "mlp", "patch")
SIGLIP = ViTConfig(
    **{"width": 32, "layers": 2, "heads": 2, "patch": 4, "image_size": 14, "embed_dim": 32, "mlp_ratio": 1.5},
    **{"activation": "gelu_tanh", "class_token": False, "pre_norm": False, "norm_eps": 1e-6, "biases": ALL},
    **{"pooling": "map", "projection": False},
)
DINOV2 = replace(SIGLIP, activation="gelu", class_token=True, layer_scale=True, pooling="cls", mlp_ratio=4)
DINOV3 = replace(
    DINOV2,
    **{"registers": 3, "norm_eps": 1e-5, "biases": ("q", "v", "o", "mlp", "patch"), "mlp_ratio": 1.5},
    **{"learned_positions": False, "rope_theta": 100.0},
)
INTERNVIT = replace(DINOV2, final_norm=False, pooling="none", mlp_ratio=1.5)


@dataclass(frozen=True)
class Family:
    """A member of the family, and its names.

    Attributes:
        config: of a small one.
        model_type: of its config.json.
        names: what is what; "block" has the index of a block in it.
        settings: what its config.json says besides sizes.
    """

    config: ViTConfig
    model_type: str
    names: dict[str, str]
    settings: dict[str, object]


_SIGLIP = {
    "patch": "embeddings.patch_embedding",
    "positions": "embeddings.position_embedding.weight",
    "block": "encoder.layers.{}.",
    **{"norm1": "layer_norm1", "norm2": "layer_norm2", "norm": "post_layernorm"},
    **{part: f"self_attn.{part}_proj" for part in "qkv"},
    **{"o": "self_attn.out_proj", "in": "mlp.fc1", "out": "mlp.fc2", "head": "head."},
}
_DINOV2 = {
    "class": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "positions": "embeddings.position_embeddings",
    "patch": "embeddings.patch_embeddings.projection",
    "block": "encoder.layer.{}.",
    **{"norm1": "norm1", "norm2": "norm2", "norm": "layernorm"},
    **{"q": "attention.attention.query", "k": "attention.attention.key", "v": "attention.attention.value"},
    **{"o": "attention.output.dense", "in": "mlp.fc1", "out": "mlp.fc2"},
    **{"scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1", "unused": "embeddings.mask_token"},
}
_DINOV3 = _DINOV2 | {
    "patch": "embeddings.patch_embeddings",
    "block": "layer.{}.",
    **{part: f"attention.{part}_proj" for part in "qkvo"},
    **{"in": "mlp.up_proj", "out": "mlp.down_proj", "norm": "norm"},
}
_AUTHORS = {
    **{
        "class": "cls_token",
        "registers": "register_tokens",
        "positions": "pos_embed",
        "patch": "patch_embed.proj",
    },
    **{
        "block": "blocks.{}.",
        "norm1": "norm1",
        "norm2": "norm2",
        "norm": "norm",
        "qkv": "attn.qkv",
        "o": "attn.proj",
    },
    **{
        "in": "mlp.fc1",
        "out": "mlp.fc2",
        "scale1": "ls1.gamma",
        "scale2": "ls2.gamma",
        "unused": "mask_token",
    },
}
# There class tokens have no positions.
_TIMM = {part: name for part, name in _AUTHORS.items() if part != "unused"} | {
    "registers": "reg_token",
    "patch positions": "pos_embed",
}
_INTERNVIT = {
    **{"class": "embeddings.cls_token", "positions": "embeddings.position_embeddings"},
    **{"patch": "embeddings.patch_embeddings.projection", "block": "encoder.layer.{}."},
    **{"norm1": "layernorm_before", "norm2": "layernorm_after"},
    **{part: f"attention.{part}_proj" for part in "qkv"},
    **{
        "o": "attention.projection_layer",
        "in": "mlp.fc1",
        "out": "mlp.fc2",
        "scale1": "lambda_1",
        "scale2": "lambda_2",
    },
}
_INTERNVIT_AUTHORS = _AUTHORS | {
    **{"class": "embeddings.class_embedding", "positions": "embeddings.position_embedding"},
    **{
        "patch": "embeddings.patch_embedding",
        "block": "encoder.layers.{}.",
        "scale1": "ls1",
        "scale2": "ls2",
    },
}
del _INTERNVIT_AUTHORS["unused"]
# Whose files say nothing besides their weights.
ALONE = ("DINOv2 by its authors", "DINOv2 with registers of timm")
FAMILIES = {
    "SigLIP": Family(SIGLIP, "siglip_vision_model", _SIGLIP, {}),
    "SigLIP without its head": Family(replace(SIGLIP, pooling="none"), "siglip_vision_model", _SIGLIP, {}),
    "DINOv2": Family(DINOV2, "dinov2", _DINOV2, {}),
    "DINOv2 with registers": Family(replace(DINOV2, registers=3), "dinov2_with_registers", _DINOV2, {}),
    "DINOv2 giant": Family(
        replace(DINOV2, activation="silu_gated", mlp_ratio=2.75),
        "dinov2",
        _DINOV2 | {"in": "mlp.weights_in", "out": "mlp.weights_out"},
        {"use_swiglu_ffn": True},
    ),
    "DINOv2 by its authors": Family(DINOV2, "dinov2", _AUTHORS, {}),
    "DINOv2 with registers of timm": Family(replace(DINOV2, registers=3), "", _TIMM, {}),
    "DINOv3": Family(DINOV3, "dinov3_vit", _DINOV3, {}),
    "DINOv3 H+": Family(
        replace(DINOV3, activation="silu_gated"),
        "dinov3_vit",
        _DINOV3 | {"gate": "mlp.gate_proj"},
        {"use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "InternViT": Family(INTERNVIT, "internvl_vision", _INTERNVIT, {"attention_bias": True}),
    "InternViT by its authors": Family(INTERNVIT, "intern_vit_6b", _INTERNVIT_AUTHORS, {}),
    "InternViT with RMSNorm": Family(
        replace(INTERNVIT, norm="rms", biases=("o", "mlp", "patch")),
        "internvl_vision",
        _INTERNVIT,
        {"norm_type": "rms_norm"},
    ),
}

# Recipe → whose names, tensors in the file and millions of parameters, as published.
FULL_SIZE = {
    "siglip-so400m-384": ("SigLIP", 448, 428.2),
    "siglip2-so400m-384": ("SigLIP", 448, 428.2),
    "dinov2-l14": ("DINOv2", 439, 304.4),
    "dinov2-reg-l14": ("DINOv2 with registers", 440, 304.4),
    "dinov3-l16": ("DINOv3", 415, 303.1),
    "internvit-300m-448": ("InternViT", 436, 304.0),
}


def shapes(family, config=None):
    """Name → shape of every tensor."""
    c, n = config or family.config, family.names
    d, h = c.width, c.hidden
    found = {}

    def linear(name, rows, columns, bias):
        found[f"{name}.weight"] = (rows, *columns)
        if bias in c.biases:
            found[f"{name}.bias"] = (rows,)

    def norm(name):
        found[f"{name}.weight"] = (d,)
        if c.norm == "layer":
            found[f"{name}.bias"] = (d,)

    linear(n["patch"], d, (3, c.patch, c.patch), "patch")
    if c.class_token:
        found[n["class"]] = (1, 1, d)
    if c.registers:
        found[n["registers"]] = (1, c.registers, d)
    if c.learned_positions:
        positions = (c.patches + (c.class_token and "patch positions" not in n), d)
        found[n["positions"]] = positions if n["positions"].endswith("weight") else (1, *positions)
    if "unused" in n:
        found[n["unused"]] = (1, d)
    for i in range(c.layers):
        at = n["block"].format(i)
        for part in ("norm1", "norm2"):
            norm(at + n[part])
        if "qkv" in n:
            linear(at + n["qkv"], 3 * d, (d,), "q")
        else:
            for part in "qkv":
                linear(at + n[part], d, (d,), part)
        linear(at + n["o"], d, (d,), "o")
        fused = c.activation == "silu_gated" and "gate" not in n
        linear(at + n["in"], 2 * h if fused else h, (d,), "mlp")
        if "gate" in n:
            linear(at + n["gate"], h, (d,), "mlp")
        linear(at + n["out"], d, (h,), "mlp")
        if c.layer_scale:
            found |= {at + n["scale1"]: (d,), at + n["scale2"]: (d,)}
    if c.final_norm:
        norm(n["norm"])
    if c.pooling == "map":
        at = n["head"]
        found |= {at + "probe": (1, 1, d), at + "attention.in_proj_weight": (3 * d, d)}
        found[at + "attention.in_proj_bias"] = (3 * d,)
        for name, rows, columns in (("attention.out_proj", d, d), ("mlp.fc1", h, d), ("mlp.fc2", d, h)):
            linear(at + name, rows, (columns,), "mlp")
        norm(at + "layernorm")
    return found


def weights(family):
    """Random weights of a small one, whose outputs have a standard deviation of about 1."""
    return drawn(shapes(family))


def drawn(shapes):
    """Random tensors of these names and shapes, whose products keep a standard deviation of about 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator)
        * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3)
        for name, shape in shapes.items()
    }


def settings(family):
    """config.json."""
    c = family.config
    return {
        "model_type": family.model_type,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "image_size": c.image_size,
        "patch_size": c.patch,
        "layer_norm_eps": c.norm_eps,
        # DINOv2 has a ratio instead, which says nothing where MLPs are gated.
        **({"mlp_ratio": 4} if family.model_type.startswith("dinov2") else {"intermediate_size": c.hidden}),
        **family.settings,
    }


def reference(family, tensors, x):
    """Patch tokens before the last block, and after it, as they are; the pooled output or None; float64."""
    c, n = family.config, family.names
    w = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def norm(name, x):
        if c.norm == "rms":
            return x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * w[f"{name}.weight"]
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + c.norm_eps).sqrt()
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(q, k, v):
        # [M, L, D] → [M, heads, L, D/heads]
        q, k, v = (part.unflatten(2, (c.heads, -1)).transpose(1, 2) for part in (q, k, v))
        if c.rope_theta is not None:
            q, k = rotated(c, q), rotated(c, k)
        scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        return (scores @ v).transpose(1, 2).flatten(2)

    def mlp(at, x):
        y = linear(at + n["in"], x)
        if c.activation == "silu_gated":
            gate, up = (linear(at + n["gate"], x), y) if "gate" in n else y.chunk(2, -1)
            y = gate / (1 + (-gate).exp()) * up
        elif c.activation == "gelu_tanh":
            y = y / 2 * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
        else:
            y = y / 2 * (1 + torch.erf(y / math.sqrt(2)))
        return linear(at + n["out"], y)

    side = c.image_size // c.patch
    seen = x.double()[:, :, : side * c.patch, : side * c.patch]
    kernel = w[f"{n['patch']}.weight"].flatten(1)
    x = F.unfold(seen, c.patch, stride=c.patch).transpose(1, 2) @ kernel.T + w[f"{n['patch']}.bias"]
    rows = len(x)
    positions = w[n["positions"]].reshape(-1, c.width) if c.learned_positions else torch.zeros(1, c.width)
    if c.class_token:
        x = torch.cat([w[n["class"]].reshape(1, 1, -1).expand(rows, -1, -1), x], 1)
    if "patch positions" in n:
        positions = F.pad(positions, (0, 0, 1, 0))
    x = x + positions
    if c.registers:
        x = torch.cat([x[:, :1], w[n["registers"]].expand(rows, -1, -1), x[:, 1:]], 1)
    for i in range(c.layers):
        at, before = n["block"].format(i), x
        y = norm(at + n["norm1"], x)
        parts = (
            linear(at + n["qkv"], y).chunk(3, -1)
            if "qkv" in n
            else [linear(at + n[part], y) for part in "qkv"]
        )
        x = x + linear(at + n["o"], attention(*parts)) * w.get(at + n.get("scale1", ""), 1)
        x = x + mlp(at, norm(at + n["norm2"], x)) * w.get(at + n.get("scale2", ""), 1)
    pooled = norm(n["norm"], x)[:, :1] if c.pooling == "cls" else None
    if c.pooling == "map":
        at = n["head"]
        q, k, v = (
            y @ weight.T + bias
            for y, weight, bias in zip(
                (w[at + "probe"].expand(rows, -1, -1), *[norm(n["norm"], x)] * 2),
                w[at + "attention.in_proj_weight"].chunk(3),
                w[at + "attention.in_proj_bias"].chunk(3),
                strict=True,
            )
        )
        y = linear(at + "attention.out_proj", attention(q, k, v))
        pooled = y + mlp(at, norm(at + "layernorm", y))
    return before[:, c.prefix :], x[:, c.prefix :], pooled


def rotated(config, x):
    """[M, heads, L, channels]: patch tokens rotated by 2π·centre·θ^(−4i/channels), rows' angles before columns'."""
    side, channels = config.image_size // config.patch, x.shape[-1]
    angles = torch.empty(side * side, channels // 2, dtype=torch.float64)
    for place in range(side * side):
        for i in range(channels // 4):
            for axis, cell in enumerate(divmod(place, side)):
                centre = (2 * cell + 1) / side - 1
                angles[place, axis * channels // 4 + i] = (
                    2 * math.pi * centre * config.rope_theta ** (-4 * i / channels)
                )
    prefix, patches = x[:, :, : config.prefix], x[:, :, config.prefix :]
    first, second = patches.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([prefix, torch.cat([first * cos - second * sin, second * cos + first * sin], -1)], 2)
