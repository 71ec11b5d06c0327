"""Small towers of Qwen-VL in their own names, and what they compute, token by token; `test_parity_qwen.py` compares
both with transformers where it is installed."""

import math
from dataclasses import dataclass, replace

import torch

from fsfast.models import ViTConfig

SIZE = 32
QWEN2 = ViTConfig(
    **{"width": 32, "layers": 3, "heads": 2, "patch": 4, "image_size": SIZE, "embed_dim": 24, "mlp_ratio": 2},
    **{"activation": "quick_gelu", "class_token": False, "pre_norm": False, "norm_eps": 1e-6},
    **{"learned_positions": False, "rope_theta": 10000.0, "rope_grid": "from_0"},
    **{"pooling": "none", "projection": False, "merge": 2},
)
QWEN2_5 = replace(
    QWEN2, **{"activation": "silu_gated", "norm": "rms", "mlp_ratio": 1.5, "window": 4, "full_layers": (1,)}
)
QWEN3 = replace(
    QWEN2,
    **{"activation": "gelu_tanh", "learned_positions": True, "taps": (0, 2), "layers": 4, "mlp_ratio": 1.5},
    **{"biases": ("q", "k", "v", "o", "mlp", "patch")},
)
# Learned positions along one side, as stored.
STORED_SIDE = 6


@dataclass(frozen=True)
class Tower:
    """A member, its names where the three differ, and its vision_config.

    Attributes:
        config: of a small one.
        settings: vision_config of config.json.
        names: ours → theirs.
    """

    config: ViTConfig
    settings: dict[str, object]
    names: dict[str, str]


_BASE = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN2_NAMES = {
    "in": "mlp.fc1",
    "out": "mlp.fc2",
    "norm": "merger.ln_q",
    "1": "merger.mlp.0",
    "2": "merger.mlp.2",
}
TOWERS = {
    "Qwen2-VL": Tower(
        QWEN2,
        _BASE
        | {"model_type": "qwen2_vl", "depth": 3, "embed_dim": 32, "hidden_size": 24, "mlp_ratio": 2}
        | {"hidden_act": "quick_gelu"},
        _QWEN2_NAMES,
    ),
    "Qwen2.5-VL": Tower(
        QWEN2_5,
        _BASE
        | {"model_type": "qwen2_5_vl", "depth": 3, "hidden_size": 32, "intermediate_size": 48}
        | {"out_hidden_size": 24, "window_size": 16, "fullatt_block_indexes": [1], "hidden_act": "silu"},
        _QWEN2_NAMES | {"in": "mlp.up_proj", "gate": "mlp.gate_proj", "out": "mlp.down_proj"},
    ),
    "Qwen3-VL": Tower(
        QWEN3,
        _BASE
        | {"model_type": "qwen3_vl", "depth": 4, "hidden_size": 32, "intermediate_size": 48}
        | {"out_hidden_size": 24, "num_position_embeddings": STORED_SIDE**2}
        | {"deepstack_visual_indexes": [0, 2], "hidden_act": "gelu_pytorch_tanh"},
        {"in": "mlp.linear_fc1", "out": "mlp.linear_fc2", "norm": "merger.norm"}
        | {"1": "merger.linear_fc1", "2": "merger.linear_fc2"},
    ),
}


def shapes(tower, stored_side=STORED_SIDE):
    """Name → shape of every tensor."""
    c, n = tower.config, tower.names
    d, h, m = c.width, c.hidden, c.width * c.merge**2
    found = {"patch_embed.proj.weight": (d, 3, 2, c.patch, c.patch)}

    def linear(name, rows, columns):
        found[f"{name}.weight"], found[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name, channels=d):
        found[f"{name}.weight"] = (channels,)
        if c.norm == "layer":
            found[f"{name}.bias"] = (channels,)

    if "patch" in c.biases:
        found["patch_embed.proj.bias"] = (d,)
    if c.learned_positions:
        found["pos_embed.weight"] = (stored_side**2, d)
    for i in range(c.layers):
        at = f"blocks.{i}."
        norm(f"{at}norm1")
        norm(f"{at}norm2")
        linear(f"{at}attn.qkv", 3 * d, d)
        linear(f"{at}attn.proj", d, d)
        for part in {"in", "gate"} & n.keys():
            linear(at + n[part], h, d)
        linear(at + n["out"], d, h)
    norm(n["norm"])
    linear(n["1"], m, m)
    linear(n["2"], c.embed_dim, m)
    for i in range(len(c.taps)):
        at = f"deepstack_merger_list.{i}."
        norm(f"{at}norm", m)
        linear(f"{at}linear_fc1", m, m)
        linear(f"{at}linear_fc2", c.embed_dim, m)
    return found


def weights(tower):
    """Random weights, whose outputs have a standard deviation of about 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator)
        * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3)
        for name, shape in shapes(tower).items()
    }


def reference(tower, tensors, pixels):
    """Patch tokens after the last block, row by row, and merged tokens with the taps'; of one image, float64."""
    c, n = tower.config, tower.names
    w = {name: tensor.double() for name, tensor in tensors.items()}
    side = c.image_size // c.patch
    places = [divmod(i, side) for i in range(side * side)]

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        if c.norm == "rms":
            return x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * w[f"{name}.weight"]
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + c.norm_eps).sqrt()
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, at, windowed):
        q, k, v = (part.unflatten(1, (c.heads, -1)).transpose(0, 1) for part in linear(at, x).chunk(3, -1))
        q, k = rotated(q), rotated(k)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if windowed:
            window = torch.tensor([(row // c.window, column // c.window) for row, column in places])
            apart = (window[:, None] != window[None]).any(-1)
            scores = scores.masked_fill(apart, -math.inf)
        return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)

    def rotated(x):
        quarter = x.shape[-1] // 4
        rates = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        angles = torch.stack([torch.cat([row * rates, column * rates]) for row, column in places])
        turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1)

    def activation(x):
        if c.activation == "quick_gelu":
            return x / (1 + (-1.702 * x).exp())
        return x / 2 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())

    def mlp(at, x):
        inside = linear(at + n["in"], x)
        if "gate" in n:
            gate = linear(at + n["gate"], x)
            return linear(at + n["out"], gate / (1 + (-gate).exp()) * inside)
        return linear(at + n["out"], activation(inside))

    def squares(x):
        rows = [
            torch.cat([x[(2 * i + di) * side + 2 * j + dj] for di in (0, 1) for dj in (0, 1)])
            for i in range(side // 2)
            for j in range(side // 2)
        ]
        return torch.stack(rows)

    def merged(first, second, x):
        inside = linear(first, x)
        return linear(second, inside / 2 * (1 + torch.erf(inside / math.sqrt(2))))

    image = pixels.double()
    # A picture stands still for two frames.
    patches = [
        torch.stack([image[:, y * c.patch : (y + 1) * c.patch, x * c.patch : (x + 1) * c.patch]] * 2, 1)
        for y, x in places
    ]
    x = torch.stack(patches).flatten(1) @ w["patch_embed.proj.weight"].flatten(1).T
    if "patch" in c.biases:
        x = x + w["patch_embed.proj.bias"]
    if c.learned_positions:
        x = x + stretched(w["pos_embed.weight"], side)
    taps = []
    for i in range(c.layers):
        at = f"blocks.{i}."
        x = x + linear(
            f"{at}attn.proj",
            attention(norm(f"{at}norm1", x), f"{at}attn.qkv", bool(c.window) and i not in c.full_layers),
        )
        x = x + mlp(at, norm(f"{at}norm2", x))
        if i in c.taps:
            at = f"deepstack_merger_list.{len(taps)}."
            taps.append(merged(f"{at}linear_fc1", f"{at}linear_fc2", norm(f"{at}norm", squares(x))))
    tokens = merged(n["1"], n["2"], squares(norm(n["norm"], x)))
    return x, torch.cat([tokens, *taps])


def stretched(positions, side):
    """[stored², D] → [side², D]: bilinear, corners on corners."""
    along = [i * (STORED_SIDE - 1) / (side - 1) for i in range(side)]
    rows = []
    for y in along:
        for x in along:
            total = torch.zeros(positions.shape[1], dtype=positions.dtype)
            for i in range(STORED_SIDE):
                for j in range(STORED_SIDE):
                    weight = max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j))
                    total += weight * positions[i * STORED_SIDE + j]
            rows.append(total)
    return torch.stack(rows)
