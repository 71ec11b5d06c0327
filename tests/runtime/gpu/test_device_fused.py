"""Networks with kernels of our own inside: equal to the plain ones, on the CPU and on a GPU."""

import pytest
import torch

from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.torch.fused import FusedBlock, GroupNormSiLU, fuse
from fsfast.models.mapper import SmoothnessMapper
from fsfast.models.unet import UNET_TINY, UNet, UNetConfig
from fsfast.models.vit import ViTConfig, ViTFeatures

# Attention, both kinds of resampling, and groups of one channel: what the two large U-Nets have, small.
ATTENDED = UNetConfig(
    base=32, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), middle_attention=True, head_channels=32
)
RESAMPLED = UNetConfig(
    base=16, multipliers=(1, 2), res_blocks=1, residual_resampling=True, groups=4, out_channels=6
)


@pytest.fixture(autouse=True)
def _no_tf32():
    """Convolutions of float32 are compared at its precision."""
    with fixed_arithmetic():
        yield


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights of usual size, where a new network has zeros."""
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(weight, mean=float(name.endswith("weight")), std=0.2)
    return module


def unet(config: UNetConfig):
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return randomised(UNet(config)).at_sigma(0.25), x.contiguous(memory_format=torch.channels_last)


def mapper(dim: int, tokens: int):
    x = torch.randn(3, tokens, dim, generator=torch.Generator().manual_seed(1))
    folded = randomised(SmoothnessMapper(dim)).at_sigma(0.25)
    for block in folded.blocks:
        # A mapper changes features little: here enough to see a wrong update.
        torch.nn.init.normal_(block.gain)
    return folded, x


NETWORKS = {
    "unet-tiny": lambda: unet(UNET_TINY),
    "unet with attention": lambda: unet(ATTENDED),
    "unet that resamples inside of blocks": lambda: unet(RESAMPLED),
    "mapper of tokens": lambda: mapper(128, 7),
    "mapper of pooled features": lambda: mapper(64, 1),
}
# Largest deviation, of the largest output. float32: rounding. The others: 8 and 11 bits, and the plain network rounds
# after every operator.
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def deviation(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_computes_the_same(place, name, dtype):
    plain, x = NETWORKS[name]()
    plain, x = plain.to(place, dtype), x.to(place, dtype)
    fused = fuse(plain)
    with torch.no_grad():
        got, wanted = fused(x), plain(x)
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    assert deviation(got, wanted) < TOLERANCES[dtype]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_shared_under_the_same_names(name):
    plain, _ = NETWORKS[name]()
    before = {key: type(module) for key, module in plain.named_modules()}
    own, others = plain.state_dict(keep_vars=True), fuse(plain).state_dict(keep_vars=True)
    assert list(own) == list(others)
    assert all(own[key] is others[key] for key in own)
    assert {key: type(module) for key, module in plain.named_modules()} == before


def test_every_norm_is_replaced():
    plain, _ = NETWORKS["unet with attention"]()
    norms = [module for module in plain.modules() if isinstance(module, torch.nn.GroupNorm)]
    fused = list(fuse(plain).modules())
    replaced = [module for module in fused if isinstance(module, GroupNormSiLU)]
    assert len(replaced) == len(norms) > 10
    assert sum(not module.silu for module in replaced) == 4
    assert not any(isinstance(module, torch.nn.GroupNorm | torch.nn.SiLU) for module in fused)
    blocks = list(fuse(NETWORKS["mapper of tokens"]()[0]).modules())
    assert sum(isinstance(module, FusedBlock) for module in blocks) == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_as_one_graph(place, name):
    plain, x = NETWORKS[name]()
    fused, x = fuse(plain.to(place)), x.to(place)
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        assert deviation(compiled(x), fused(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet with attention", "mapper of tokens"])
def test_inductor_compiles_it(place, name):
    plain, x = NETWORKS[name]()
    fused, x = fuse(plain.to(place)), x.to(place)
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, dynamic=False)
        assert deviation(compiled(x), plain(x)) < TOLERANCES[torch.float32]


def test_other_networks_compute_as_before():
    config = ViTConfig(width=64, layers=1, heads=1, patch=8, image_size=16, embed_dim=8)
    plain = randomised(ViTFeatures(config, "tokens", True)).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(fuse(plain)(x), plain(x))
    assert not fuse(plain).training
