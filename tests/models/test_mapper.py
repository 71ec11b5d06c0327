"""The smoothness mapper, against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsfast.models import FoldedMapper, SmoothnessMapper

DIM = 128


def features(batch, length=9, seed=1, dtype=torch.float32):
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def two_layers(weights, name, x):
    """Linear, GELU, Linear; with biases where there are any."""
    for index in (0, 2):
        x = x @ weights[f"{name}.{index}.weight"].T + weights.get(f"{name}.{index}.bias", 0)
        x = gelu(x) if index == 0 else x
    return x


def reference_mapper(weights, blocks, z, sigma):
    """The mapper of the paper, line by line, in float64."""
    d = z.shape[-1]
    for i in range(blocks):
        w = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        s = torch.tensor([sigma], dtype=torch.float64)
        n = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        n = n * w["norm.weight"] + w["norm.bias"]
        film = two_layers(w, "film", s)
        gamma, beta = film[:d], film[d:]
        f = (1 + gamma) * n + beta
        h = (
            gelu(f @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]) @ w["mlp.c_proj.weight"].T
            + w["mlp.c_proj.bias"]
        )
        if i == 0:
            attention = nn.MultiheadAttention(d, d // 64, batch_first=True).double()
            attention.load_state_dict(
                {k.removeprefix("attn."): v for k, v in w.items() if k.startswith("attn.")}
            )
            h = h + attention(f, f, f)[0]
        padded = F.pad(f, (0, 0, 1, 1))
        taps = w["conv.weight"][:, 0]
        convolved = sum(padded[:, k : k + f.shape[1]] * taps[:, k] for k in range(3)) + w["conv.bias"]
        h = h + 0.5 * convolved
        norm = (h**2).sum(-1, keepdim=True).sqrt()
        v = math.sqrt(d) * h / torch.clamp(norm, min=1e-6)
        a = torch.log1p(torch.exp(two_layers(w, "alpha", torch.cat([s, torch.log(s.clamp(min=1e-4))]))))
        b = torch.log1p(torch.exp(two_layers(w, "beta", s)))
        z = z + ((1 + gamma) * v * (a * s**b) + beta) * w["scale"]
    return z


@pytest.mark.parametrize("sigma", [0.0, 1e-5, 0.25, 1.0])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_equals_the_formula(sigma, length, randomised):
    mapper = randomised(SmoothnessMapper(DIM)).double()
    z = features(2, length, dtype=torch.float64)
    want = reference_mapper(mapper.state_dict(), 3, z, sigma)
    torch.testing.assert_close(mapper(z, sigma), want, rtol=0, atol=1e-12)
    if sigma >= 0.25:
        # Large enough that a wrong update would be seen.
        assert (want - z).abs().mean() > 1e-2


def test_names_are_as_documented():
    common = {"norm.weight", "norm.bias", "conv.weight", "conv.bias"}
    common |= {f"mlp.{layer}.{kind}" for layer in ("c_fc", "c_proj") for kind in ("weight", "bias")}
    attention = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    own = {f"{net}.{i}.{kind}" for net in ("alpha", "beta") for i in (0, 2) for kind in ("weight", "bias")}
    own |= {"film.0.weight", "film.2.weight", "scale"}
    first = {f"blocks.0.attn.{name}" for name in attention}
    assert set(SmoothnessMapper(DIM).state_dict()) == first | {
        f"blocks.{i}.{name}" for i in range(3) for name in common | own
    }
    assert set(FoldedMapper(DIM).state_dict()) == first | {
        f"blocks.{i}.{name}" for i in range(3) for name in common | {"gain", "shift"}
    }


def test_a_new_mapper_is_near_the_identity():
    torch.manual_seed(0)
    mapper = SmoothnessMapper(DIM)
    assert all(torch.equal(block.scale, torch.full((DIM,), 5e-4)) for block in mapper.blocks)
    z = features(2)
    # Three updates of norm √D·a·σ^b·5e-4 with a·σ^b < 2.
    assert 0 < (mapper(z, 0.25) - z).norm(dim=-1).max() < 3 * 2 * 5e-4 * math.sqrt(DIM)


@pytest.mark.parametrize("length", [1, 9])
def test_without_noise_nothing_changes(length, randomised):
    mapper = randomised(SmoothnessMapper(DIM))
    z = features(2, length)
    for got in (mapper(z, 0.0), mapper.at_sigma(0.0)(z)):
        assert torch.equal(got.view(torch.int32), z.view(torch.int32))
    # Also where softplus underflows: b = 0, and 0⁰ would be 1.
    for block in mapper.blocks:
        block.beta[2].bias.data.fill_(-1000)
    assert torch.equal(mapper(z, 0.0), z)
    assert not torch.equal(mapper(z, 0.25), z)


def test_zero_features_stay_finite(randomised):
    mapper = randomised(SmoothnessMapper(DIM))
    for name, parameter in mapper.named_parameters():
        if not name.endswith("scale"):
            parameter.data.fill_(0)
    # h = 0 everywhere: the floor of the norm is at work.
    assert torch.equal(mapper(features(1) * 0, 0.25), torch.zeros(1, 9, DIM))


@pytest.mark.parametrize("sigma", [0.0, 0.12, 0.25, 1.0])
def test_folded_mapper_equals_the_original(sigma, randomised):
    mapper = randomised(SmoothnessMapper(DIM, blocks=2))
    before = {name: tensor.clone() for name, tensor in mapper.state_dict().items()}
    folded = mapper.at_sigma(sigma)
    z = features(3)
    want = mapper(z, sigma)
    torch.testing.assert_close(folded(z), want, rtol=0, atol=2e-6 * float(want.abs().max()))
    rebuilt = FoldedMapper(DIM, blocks=2)
    rebuilt.load_state_dict(folded.state_dict())
    assert torch.equal(rebuilt(z), folded(z))
    for parameter in folded.parameters():
        parameter.data.fill_(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mapper.state_dict().items())


def test_folding_is_exact_in_float64(randomised):
    mapper = randomised(SmoothnessMapper(DIM)).double()
    z = features(3, dtype=torch.float64)
    torch.testing.assert_close(mapper.at_sigma(0.25)(z), mapper(z, 0.25), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 9])
def test_folded_mapper_exports(length, randomised, assert_exports):
    assert_exports(randomised(SmoothnessMapper(DIM, blocks=2)).at_sigma(0.25), features(5, length))


def test_gradients_reach_every_weight(randomised):
    mapper = randomised(SmoothnessMapper(DIM)).requires_grad_()
    mapper(features(2), 0.25).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in mapper.parameters())


def test_one_seed_one_network():
    def build(seed):
        torch.manual_seed(seed)
        return SmoothnessMapper(DIM)(features(1), 0.25)

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize("dim", [0, 63, 100])
def test_bad_widths_are_refused(dim):
    for kind in (SmoothnessMapper, FoldedMapper):
        with pytest.raises(ValueError, match="multiple of 64"):
            kind(dim)


@pytest.mark.parametrize("shape", [(2, DIM), (2, 9, 64)])
def test_bad_features_are_refused(shape):
    with pytest.raises(ValueError, match=rf"wanted z as \[B, L, {DIM}\]"):
        SmoothnessMapper(DIM)(torch.zeros(shape), 0.25)
    with pytest.raises(ValueError, match=rf"wanted z as \[B, L, {DIM}\]"):
        FoldedMapper(DIM)(torch.zeros(shape))


@pytest.mark.parametrize("sigma", [-0.1, math.inf, math.nan])
def test_bad_sigma_is_refused(sigma):
    mapper = SmoothnessMapper(DIM)
    for run in (mapper.at_sigma, lambda s: mapper(features(1), s)):
        with pytest.raises(ValueError, match="wanted a finite sigma"):
            run(sigma)
