"""The U-Net, against its published names, sizes and costs, and a reference written from the specification."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fsfast.models import ADM256, UNET_LIGHT, UNET_TINY, FoldedUNet, UNet, UNetConfig

ADM_KEYS = Path(__file__).parents[1] / "data" / "adm256_uncond_keys.csv"

# adm256 in small: residual resampling, attention at two levels and in the middle, several heads, variances.
ADM_NARROW = UNetConfig(
    base=32,
    multipliers=(1, 1, 2),
    res_blocks=2,
    attention_levels=(1, 2),
    middle_attention=True,
    residual_resampling=True,
    head_channels=16,
    out_channels=6,
    groups=8,
)
# unet-light in small: convolutions resample, attention at the lowest level only.
LIGHT_NARROW = UNetConfig(
    base=16, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), head_channels=16, groups=8
)
NARROW = {"adm": ADM_NARROW, "light": LIGHT_NARROW, "tiny": UNET_TINY}


def on_meta(config, kind=UNet):
    with torch.device("meta"):
        return kind(config)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def images(batch, size=16, seed=1, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Sizes, names and costs.


def test_adm256_has_the_names_and_shapes_of_the_published_checkpoint():
    with ADM_KEYS.open() as file:
        want = {row["key"]: row["shape"] for row in csv.DictReader(file)}
    unet = on_meta(ADM256)
    got = {name: "x".join(map(str, tensor.shape)) for name, tensor in unet.state_dict().items()}
    assert got == want
    assert (parameters(unet), len(got)) == (552_814_086, 566)


def test_unet_light_has_the_papers_total():
    assert parameters(on_meta(UNET_LIGHT)) == 43_696_515


def test_unet_tiny_is_small():
    assert parameters(on_meta(UNET_TINY)) <= 500_000


@pytest.mark.parametrize(("config", "gmac"), [(ADM256, 1119.8), (UNET_LIGHT, 158.1)], ids=["adm256", "light"])
def test_cost_of_one_image_at_256(config, gmac):
    unet = on_meta(config)
    with FlopCounterMode(display=False) as counter:
        unet(torch.empty(1, 3, 256, 256, device="meta"), torch.empty(1, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.05)


def test_folding_removes_the_time_embedding_and_the_variances_and_nothing_else():
    whole, folded = on_meta(ADM256).state_dict(), on_meta(ADM256, FoldedUNet).state_dict()
    gone = {name for name in whole if name.startswith("time_embed.") or ".emb_layers." in name}
    assert set(folded) == set(whole) - gone
    assert {name for name in folded if folded[name].shape != whole[name].shape} == {
        "out.2.weight",
        "out.2.bias",
    }
    assert list(folded["out.2.weight"].shape) == [3, 256, 3, 3]
    # 54M parameters vanish.
    assert 54.2e6 < parameters(on_meta(ADM256)) - parameters(on_meta(ADM256, FoldedUNet)) < 54.4e6


# The reference: float64, from the specification and the names of the weights alone.


def group_norm(weights, name, x, groups):
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
    normalised = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    affine = [1, -1] + [1] * (x.ndim - 2)
    return normalised * weights[f"{name}.weight"].reshape(affine) + weights[f"{name}.bias"].reshape(affine)


def conv(weights, name, x, **how):
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **how)


def twice(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def halved(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def residual_block(weights, name, x, embedding, groups, resample):
    h = resample(F.silu(group_norm(weights, f"{name}.in_layers.0", x, groups)))
    h = conv(weights, f"{name}.in_layers.2", h, padding=1)
    affine = (
        F.silu(embedding) @ weights[f"{name}.emb_layers.1.weight"].T + weights[f"{name}.emb_layers.1.bias"]
    )
    scale, shift = affine[:, : h.shape[1], None, None], affine[:, h.shape[1] :, None, None]
    h = group_norm(weights, f"{name}.out_layers.0", h, groups) * (1 + scale) + shift
    h = conv(weights, f"{name}.out_layers.3", F.silu(h), padding=1)
    x = resample(x)
    if f"{name}.skip_connection.weight" in weights:
        x = conv(weights, f"{name}.skip_connection", x)
    return x + h


def legacy_attention(weights, name, x, groups, head_channels):
    batch, channels, height, width = x.shape
    flat = group_norm(weights, f"{name}.norm", x.flatten(2), groups)
    qkv = torch.einsum("oc,bct->bot", weights[f"{name}.qkv.weight"][..., 0], flat)
    qkv = qkv + weights[f"{name}.qkv.bias"][:, None]
    out = []
    for head in range(channels // head_channels):
        start = 3 * head * head_channels
        q, k, v = (qkv[:, start + i * head_channels : start + (i + 1) * head_channels] for i in range(3))
        attention = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(head_channels), dim=-1)
        out.append(torch.einsum("bts,bcs->bct", attention, v))
    h = torch.einsum("oc,bct->bot", weights[f"{name}.proj_out.weight"][..., 0], torch.cat(out, 1))
    h = h + weights[f"{name}.proj_out.bias"][:, None]
    return x + h.reshape(batch, channels, height, width)


def layer(weights, name, x, embedding, config, resample):
    if f"{name}.in_layers.0.weight" in weights:
        return residual_block(weights, name, x, embedding, config.groups, resample)
    if f"{name}.qkv.weight" in weights:
        return legacy_attention(weights, name, x, config.groups, config.head_channels)
    if f"{name}.op.weight" in weights:
        return conv(weights, f"{name}.op", x, stride=2, padding=1)
    if f"{name}.conv.weight" in weights:
        return conv(weights, f"{name}.conv", twice(x), padding=1)
    return conv(weights, name, x, padding=1)


def reference_unet(weights, config, x, t):
    def same(x):
        return x

    def layers_of(stage):
        indices = {
            int(name[len(stage) + 1 :].split(".")[0]) for name in weights if name.startswith(f"{stage}.")
        }
        return [f"{stage}.{index}" for index in sorted(indices)]

    half = config.base // 2
    # Frequencies and angles in float32, as upstream has them: at t = 999 their rounding is visible.
    frequencies = torch.exp(-math.log(1e4) * torch.arange(half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1).double()
    embedding = F.linear(embedding, weights["time_embed.0.weight"], weights["time_embed.0.bias"])
    embedding = F.linear(F.silu(embedding), weights["time_embed.2.weight"], weights["time_embed.2.bias"])

    r, (batch, _, height, width) = config.unshuffle, x.shape
    x = x.reshape(batch, 3, height // r, r, width // r, r).permute(0, 1, 3, 5, 2, 4)
    h = x.reshape(batch, 3 * r * r, height // r, width // r)

    skips, levels = [], len(config.multipliers)
    for stage in range(levels * (config.res_blocks + 1)):
        down = stage > 0 and stage % (config.res_blocks + 1) == 0
        for name in layers_of(f"input_blocks.{stage}"):
            h = layer(weights, name, h, embedding, config, halved if down else same)
        skips.append(h)
    for name in layers_of("middle_block"):
        h = layer(weights, name, h, embedding, config, same)
    for stage in range(levels * (config.res_blocks + 1)):
        h = torch.cat([h, skips.pop()], dim=1)
        for index, name in enumerate(layers_of(f"output_blocks.{stage}")):
            h = layer(weights, name, h, embedding, config, twice if index else same)
    h = conv(weights, "out.2", F.silu(group_norm(weights, "out.0", h, config.groups)), padding=1)
    h = h.reshape(batch, -1, r, r, height // r, width // r).permute(0, 1, 4, 2, 5, 3)
    return h.reshape(batch, -1, height, width)


@pytest.mark.parametrize("name", NARROW)
def test_equals_the_reference(name, randomised):
    config = NARROW[name]
    unet = randomised(UNet(config)).double()
    # Different timesteps in one batch, at both ends; height and width differ.
    x, t = images(3, 16, dtype=torch.float64)[..., :8], torch.tensor([0, 145, 999])
    want = reference_unet(unet.state_dict(), config, x, t)
    assert list(want.shape) == [3, config.out_channels, 16, 8]
    assert 0.1 < want.std() < 10
    torch.testing.assert_close(unet(x, t), want, rtol=0, atol=1e-11)


# Folding.


@pytest.mark.parametrize("name", NARROW)
def test_folded_network_equals_the_original(name, randomised):
    unet = randomised(UNet(NARROW[name]))
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    folded = unet.at_sigma(0.25)
    x = images(2, 32)
    want = unet(x, 145)[:, :3]
    # Exact up to float32: 4e-7 of the range in one block, which a deep network adds up.
    torch.testing.assert_close(folded(x), want, rtol=0, atol=2e-6 * float(want.abs().max()))

    rebuilt = FoldedUNet(NARROW[name])
    rebuilt.load_state_dict(folded.state_dict())
    assert torch.equal(rebuilt(x), folded(x))

    for parameter in folded.parameters():
        parameter.data.fill_(0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())


def test_folding_is_exact_in_float64(randomised):
    unet = randomised(UNet(ADM_NARROW)).double()
    x = images(2, dtype=torch.float64)
    torch.testing.assert_close(unet.at_sigma(0.5)(x), unet(x, 259)[:, :3], rtol=0, atol=1e-12)


def test_folded_networks_of_different_sigma_differ(randomised):
    unet = randomised(UNet(UNET_TINY))
    x = images(1)
    assert (unet.at_sigma(0.25)(x) - unet.at_sigma(0.5)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NARROW)
def test_folded_network_exports(name, randomised, assert_exports):
    folded = randomised(UNet(NARROW[name])).at_sigma(0.25)
    assert_exports(folded, images(5, 16))


# Behaviour.


def test_an_image_does_not_depend_on_its_neighbours(randomised):
    folded = randomised(UNet(ADM_NARROW)).double().at_sigma(0.25)
    x = images(3, dtype=torch.float64)
    torch.testing.assert_close(folded(x)[1:2], folded(x[1:2]), rtol=0, atol=1e-12)


def test_an_empty_batch_is_empty(randomised):
    assert list(randomised(UNet(LIGHT_NARROW)).at_sigma(0.25)(images(0)).shape) == [0, 3, 16, 16]


def test_one_seed_one_network():
    def build(seed):
        torch.manual_seed(seed)
        return UNet(UNET_TINY).state_dict()["input_blocks.0.0.weight"]

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


def test_a_new_network_predicts_no_noise():
    torch.manual_seed(0)
    assert torch.equal(UNet(UNET_TINY)(images(1), 145), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("shape", [(1, 3, 16), (1, 4, 16, 16), (1, 3, 16, 12), (1, 3, 12, 16)])
def test_bad_images_are_refused(shape):
    for run in (on_meta(UNET_TINY, FoldedUNet), lambda x: on_meta(UNET_TINY)(x, 145)):
        with pytest.raises(ValueError, match=r"multiples of 8, got \[1, "):
            run(torch.empty(shape, device="meta"))


def test_bad_timesteps_are_refused():
    with pytest.raises(ValueError, match=r"wanted t .* got \[2\]"):
        UNet(UNET_TINY)(images(3), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"base": 20}, "multiple of groups"),
        ({"head_channels": 24}, "attended channels"),
        ({"out_channels": 2}, "out_channels"),
        ({"res_blocks": 0}, "at least one"),
        ({"multipliers": ()}, "at least one"),
        ({"attention_levels": (2,)}, "attention_levels"),
    ],
)
def test_bad_configurations_are_refused(change, complaint):
    fields = {"base": 16, "multipliers": (1, 2), "res_blocks": 1, "groups": 8, "head_channels": 16}
    with pytest.raises(ValueError, match=complaint):
        UNetConfig(**(fields | {"attention_levels": (1,)} | change))
