"""A loaded tower of transformers against a reference in its own names: float64, head by head, patch by patch."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.models import load_encoder
from tests.models.published import NARROW, as_transformers, tower


def layer_norm(weights, name, x):
    x = x - x.mean(-1, keepdim=True)
    return (
        x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def linear(weights, name, x):
    return torch.einsum("oi,...i->...o", weights[f"{name}.weight"], x) + weights[f"{name}.bias"]


def clip_attention(weights, name, x, heads):
    q, k, v = (linear(weights, f"{name}.{part}_proj", x) for part in "qkv")
    size = x.shape[-1] // heads
    out = torch.zeros_like(x)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = torch.einsum("btc,bsc->bts", q[..., own], k[..., own]) / math.sqrt(size)
        out[..., own] = torch.einsum(
            "bts,bsc->btc", scores.exp() / scores.exp().sum(-1, keepdim=True), v[..., own]
        )
    return linear(weights, f"{name}.out_proj", out)


def reference_hidden_states(weights, config, x):
    """Every hidden state of a CLIPVisionModel: the embeddings after pre_layrnorm, then after each block."""
    side, p = config.image_size // config.patch, config.patch
    kernel = weights["embeddings.patch_embedding.weight"]
    tokens = [weights["embeddings.class_embedding"].expand(len(x), -1)]
    for row in range(side):
        for column in range(side):
            patch = x[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
            tokens.append(torch.einsum("dchw,bchw->bd", kernel, patch))
    h = torch.stack(tokens, dim=1) + weights["embeddings.position_embedding.weight"]
    h = layer_norm(weights, "pre_layrnorm", h)
    states = [h]
    for i in range(config.layers):
        name = f"encoder.layers.{i}"
        h = h + clip_attention(
            weights, f"{name}.self_attn", layer_norm(weights, f"{name}.layer_norm1", h), config.heads
        )
        g = linear(weights, f"{name}.mlp.fc1", layer_norm(weights, f"{name}.layer_norm2", h))
        g = (
            g / (1 + (-1.702 * g).exp())
            if config.activation == "quick_gelu"
            else g * (1 + torch.erf(g / math.sqrt(2))) / 2
        )
        h = h + linear(weights, f"{name}.mlp.fc2", g)
        states.append(h)
    return states


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_tower_of_transformers_equals_the_reference(quick_gelu, tmp_path):
    config = replace(NARROW, activation="quick_gelu" if quick_gelu else "gelu")
    weights = as_transformers(tower(seed=3), "", projection="visual_projection.weight")
    save_file(weights, tmp_path / "a.safetensors")
    module = load_encoder(tmp_path / "a.safetensors", config).module.double()
    weights = {name: tensor.double() for name, tensor in weights.items()}
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    states = reference_hidden_states(weights, config, x)
    normed = layer_norm(weights, "post_layernorm", states[-1])
    pooled = torch.einsum("ei,bi->be", weights["visual_projection.weight"], normed[:, 0])[:, None]
    torch.testing.assert_close(module(x, "penultimate"), states[-2][:, 1:], rtol=0, atol=1e-11)
    torch.testing.assert_close(module(x, "tokens", False), states[-1][:, 1:], rtol=0, atol=1e-11)
    torch.testing.assert_close(module(x, "tokens", True), normed[:, 1:], rtol=0, atol=1e-11)
    torch.testing.assert_close(module(x, "pooled"), pooled, rtol=0, atol=1e-11)
