"""The vision transformer, against sizes from arithmetic and a reference on torch's own attention."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fsfast.models import (
    VIT_B_16,
    VIT_L_14,
    VIT_L_14_336,
    VIT_TINY,
    VisionTransformer,
    ViTConfig,
    ViTFeatures,
)

# An odd number of patches (9), and an embedding width of its own.
NARROW = ViTConfig(width=32, layers=3, heads=4, patch=4, image_size=12, embed_dim=24, activation="quick_gelu")
OUTPUTS = [("penultimate", None), ("tokens", False), ("tokens", True), ("pooled", None)]


def on_meta(config):
    with torch.device("meta"):
        return VisionTransformer(config)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def pixels(batch, config=NARROW, seed=1, dtype=torch.float32):
    size = config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Sizes and costs.


@pytest.mark.parametrize(
    ("config", "count", "tensors"),
    [(VIT_B_16, 86_192_640, 152), (VIT_L_14, 303_966_208, 296), (VIT_L_14_336, 304_293_888, 296)],
    ids=["B-16", "L-14", "L-14-336"],
)
def test_parameters_and_tensors(config, count, tensors):
    d, side = config.width, config.image_size // config.patch
    # Attention 4D² + 4D, MLP 8D² + 5D, two norms 4D.
    block = 12 * d * d + 13 * d
    # Class token, positions, patches, two norms, projection.
    rest = d + (side * side + 1) * d + 3 * config.patch**2 * d + 4 * d + d * config.embed_dim
    assert config.layers * block + rest == count
    vit = on_meta(config)
    assert (parameters(vit), len(vit.state_dict())) == (count, tensors)


def test_names_are_open_clips():
    with_bias = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    per_block = {f"{name}.{kind}" for name in with_bias for kind in ("weight", "bias")}
    per_block |= {"attn.in_proj_weight", "attn.in_proj_bias"}
    want = {f"transformer.resblocks.{i}.{name}" for i in range(NARROW.layers) for name in per_block}
    want |= {f"{name}.{kind}" for name in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    want |= {"class_embedding", "positional_embedding", "conv1.weight", "proj"}
    assert set(VisionTransformer(NARROW).state_dict()) == want


@pytest.mark.parametrize(
    ("config", "gmac", "rounding"),
    [(VIT_B_16, 17.6, 0.05), (VIT_L_14, 81.0, 0.5), (VIT_L_14_336, 191.0, 0.5)],
    ids=["B-16", "L-14", "L-14-336"],
)
def test_cost_of_one_image(config, gmac, rounding):
    vit = on_meta(config)
    with FlopCounterMode(display=False) as counter:
        vit(torch.empty(1, 3, config.image_size, config.image_size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=rounding)


def test_vit_tiny_is_small():
    assert parameters(on_meta(VIT_TINY)) <= 1_000_000


# The reference: float64, written down block by block.


def layer_norm(weights, name, x):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def reference_block(weights, name, x, config):
    attention = nn.MultiheadAttention(config.width, config.heads, batch_first=True).double()
    attention.load_state_dict(
        {
            key.removeprefix(f"{name}.attn."): w
            for key, w in weights.items()
            if key.startswith(f"{name}.attn.")
        }
    )
    y = layer_norm(weights, f"{name}.ln_1", x)
    x = x + attention.eval()(y, y, y, need_weights=True)[0]
    y = layer_norm(weights, f"{name}.ln_2", x)
    h = y @ weights[f"{name}.mlp.c_fc.weight"].T + weights[f"{name}.mlp.c_fc.bias"]
    h = (
        h * torch.sigmoid(1.702 * h)
        if config.activation == "quick_gelu"
        else h * 0.5 * (1 + torch.erf(h / 2**0.5))
    )
    return x + h @ weights[f"{name}.mlp.c_proj.weight"].T + weights[f"{name}.mlp.c_proj.bias"]


def reference_stem(weights, x):
    """Every second 3×3 neighbourhood as a row, times the convolution as a matrix; [M, 3, S, S] → [M, L, D]."""
    for i in range(0, 3, 2):
        w, bias = weights[f"conv1.{i}.weight"], weights[f"conv1.{i}.bias"]
        x = x if i == 0 else x * 0.5 * (1 + torch.erf(x / 2**0.5))
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        side = x.shape[-1] // 2
        rows = (
            padded.unfold(2, 3, 2).unfold(3, 3, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(x), side * side, -1)
        )
        x = (rows @ w.flatten(1).T + bias).transpose(1, 2).unflatten(2, (side, side))
    return x.flatten(2).transpose(1, 2)


def reference_vit(weights, config, x, output, ln_post):
    p, side = config.patch, config.image_size // config.patch
    if config.stem:
        tokens = reference_stem(weights, x)
    else:
        # [M, side, side, 3·p·p]: every patch as a row, times the convolution as a matrix.
        patches = (
            x.reshape(-1, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5).reshape(len(x), side * side, -1)
        )
        tokens = patches @ weights["conv1.weight"].reshape(config.width, -1).T
    tokens = torch.cat([weights["class_embedding"].expand(len(x), 1, -1), tokens], dim=1)
    tokens = layer_norm(weights, "ln_pre", tokens + weights["positional_embedding"])
    for i in range(config.layers - 1 if output == "penultimate" else config.layers):
        tokens = reference_block(weights, f"transformer.resblocks.{i}", tokens, config)
    if output == "pooled":
        return layer_norm(weights, "ln_post", tokens[:, :1]) @ weights["proj"]
    return layer_norm(weights, "ln_post", tokens[:, 1:]) if ln_post else tokens[:, 1:]


@pytest.mark.parametrize(
    "change", [{}, {"activation": "gelu"}, {"stem": (8,)}], ids=["quick", "exact", "stem"]
)
@pytest.mark.parametrize(("output", "ln_post"), OUTPUTS)
def test_equals_the_reference(output, ln_post, change, randomised):
    config = replace(NARROW, **change)
    vit = randomised(VisionTransformer(config)).double()
    x = pixels(3, dtype=torch.float64)
    want = reference_vit(vit.state_dict(), config, x, output, ln_post)
    assert list(want.shape) == ([3, 1, 24] if output == "pooled" else [3, 9, 32])
    torch.testing.assert_close(vit(x, output, ln_post), want, rtol=0, atol=1e-12)


def test_quick_gelu_is_another_function(randomised):
    quick = randomised(VisionTransformer(NARROW))
    exact = randomised(VisionTransformer(replace(NARROW, activation="gelu")))
    assert (quick(pixels(1)) - exact(pixels(1))).abs().max() > 1e-4


# The three outputs.


def test_outputs_agree_with_each_other(randomised):
    vit = randomised(VisionTransformer(NARROW)).double()
    x = pixels(2, dtype=torch.float64)
    raw = vit(x, "tokens", ln_post=False)
    want = F.layer_norm(raw, (32,), vit.ln_post.weight, vit.ln_post.bias)
    torch.testing.assert_close(vit(x, "tokens", ln_post=True), want, rtol=0, atol=1e-12)
    # A network without the last block ends where the penultimate output is taken.
    shorter = VisionTransformer(replace(NARROW, layers=2)).double().eval()
    shorter.load_state_dict({k: w for k, w in vit.state_dict().items() if ".resblocks.2." not in k})
    torch.testing.assert_close(vit(x, "penultimate"), shorter(x, "tokens", False), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("output", "ln_post", "gone"),
    [
        ("penultimate", None, ("transformer.resblocks.2.", "ln_post.", "proj")),
        ("tokens", False, ("ln_post.", "proj")),
        ("tokens", True, ("proj",)),
        ("pooled", None, ()),
    ],
)
def test_features_hold_what_the_output_needs(output, ln_post, gone, randomised):
    vit = randomised(VisionTransformer(NARROW))
    features = vit.features(output, ln_post)
    assert set(features.state_dict()) == {k for k in vit.state_dict() if not k.startswith(gone or "-")}
    x = pixels(2)
    assert torch.equal(features(x), vit(x, output, ln_post))
    rebuilt = ViTFeatures(NARROW, output, ln_post)
    rebuilt.load_state_dict(features.state_dict())
    assert torch.equal(rebuilt(x), features(x))
    features.conv1.weight.data.fill_(0)
    assert vit.conv1.weight.abs().max() > 0


@pytest.mark.parametrize(("output", "ln_post"), OUTPUTS)
def test_features_export(output, ln_post, randomised, assert_exports):
    assert_exports(randomised(VisionTransformer(NARROW)).features(output, ln_post), pixels(5))


# Behaviour.


def test_an_image_does_not_depend_on_its_neighbours(randomised):
    vit = randomised(VisionTransformer(NARROW)).double()
    x = pixels(3, dtype=torch.float64)
    torch.testing.assert_close(vit(x)[1:2], vit(x[1:2]), rtol=0, atol=1e-12)


def test_one_seed_one_network():
    def build(seed):
        torch.manual_seed(seed)
        return VisionTransformer(NARROW)(pixels(1))

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 1, 12, 12), (1, 3, 12, 16)])
def test_bad_pixels_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted pixels as \[M, 3, 12, 12\]"):
        VisionTransformer(NARROW)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("output", "ln_post", "complaint"),
    [
        ("tokens", None, "wants ln_post"),
        ("penultimate", True, "always means ln_post=False"),
        ("pooled", False, "always means ln_post=True"),
        ("last", None, "penultimate, tokens, pooled"),
    ],
)
def test_unclear_outputs_are_refused(output, ln_post, complaint):
    with pytest.raises(ValueError, match=complaint):
        ViTFeatures(NARROW, output, ln_post)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 5}, "heads=5"),
        ({"image_size": 3}, "patch=4"),
        ({"layers": 0}, "at least 1"),
        ({"stem": (8, 16)}, "patch=8"),
        ({"stem": (0,)}, "patch=4"),
    ],
)
def test_bad_configurations_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(NARROW, **change)
