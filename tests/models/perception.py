"""A small Perception Encoder in its authors' names, and its rotary positions as they are written down."""

import math

import torch

from fsfast.models import ViTConfig
from tests.models.published import prefixed, tower_shapes

# Sizes of its smallest tower, which tell the heads.
CORE = ViTConfig(
    **{"width": 192, "layers": 12, "heads": 3, "patch": 4, "image_size": 16, "embed_dim": 40},
    **{"rope_theta": 10000.0, "rope_grid": "from_1", "pooling": "map", "pool_heads": 8},
)


def shapes(config):
    """Name → shape of every tensor."""
    width, hidden = config.width, config.hidden
    pool = {
        "probe": (1, 1, width),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    found = tower_shapes(config) | prefixed("attn_pool.", pool)
    if not config.class_token:
        del found["class_embedding"]
        found["positional_embedding"] = (config.patches, width)
    return prefixed("visual.", found)


def weights(config):
    """Random weights, whose outputs have a standard deviation of about 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator)
        * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3)
        for name, shape in shapes(config).items()
    }


def attended(config, into_three, bias, x):
    """Attention's output before its projection, [L, D] → [L, D], float64: neighbouring channels are rotated."""
    side = config.image_size // config.patch
    first = int(config.class_token)
    q, k, v = (
        part.unflatten(1, (config.heads, -1)).transpose(0, 1)
        for part in (x @ into_three.T + bias).chunk(3, -1)
    )
    rates = 10000.0 ** (-torch.arange(q.shape[-1] // 4, dtype=torch.float64) * 4 / q.shape[-1])
    # Columns come before rows, and a class token lies at 0, 0.
    angles = torch.stack(
        [torch.zeros(q.shape[-1] // 2, dtype=torch.float64)] * first
        + [
            torch.cat([(column + first) * rates, (row + first) * rates])
            for row in range(side)
            for column in range(side)
        ]
    )
    turn = torch.polar(torch.ones_like(angles), angles)
    q, k = (
        torch.view_as_real(torch.view_as_complex(part.unflatten(2, (-1, 2)).contiguous()) * turn).flatten(2)
        for part in (q, k)
    )
    scores = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return (scores @ v).transpose(0, 1).flatten(1)
