"""Networks as a GPU runs them: equal to the plain ones, with fewer operators, on the CPU and on a GPU."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.torch.attention import with_token_attention
from fsfast.backends.torch.mapper import DeviceBlock
from fsfast.backends.torch.networks import for_device
from fsfast.backends.torch.unet import Convolution, DeviceUNet
from fsfast.models.drunet import DRUNet, DRUNetConfig
from fsfast.models.mapper import SmoothnessMapper
from fsfast.models.unet import ADM256, UNET_TINY, FoldedUNet, UNet, UNetConfig
from fsfast.models.vit import ViTFeatures
from fsfast.models.vit_config import VIT_L_14_336, ViTConfig

# Attention, both kinds of resampling, and groups of one channel: what the two large U-Nets have, small.
ATTENDED = UNetConfig(
    base=32, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), middle_attention=True, head_channels=32
)
RESAMPLED = UNetConfig(
    base=16, multipliers=(1, 2), res_blocks=1, residual_resampling=True, groups=4, out_channels=6
)
# Channels that grow on the way up: a skip connection without a convolution.
NARROWING = UNetConfig(base=16, multipliers=(2, 1), res_blocks=1, groups=4)


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


def drunet():
    _, x = unet(UNET_TINY)
    return randomised(DRUNet(DRUNetConfig((8, 16), (1, 2)))).eval().requires_grad_(False), x


def mapper(dim: int, tokens: int):
    x = torch.randn(3, tokens, dim, generator=torch.Generator().manual_seed(1))
    folded = randomised(SmoothnessMapper(dim)).at_sigma(0.25)
    for block in folded.blocks:
        # A mapper changes features little: here enough to see a wrong update.
        torch.nn.init.normal_(block.gain)
    return folded, x


def tower(**changes):
    config = replace(ViTConfig(width=64, layers=3, heads=2, patch=8, image_size=24, embed_dim=32), **changes)
    x = torch.randn(3, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))
    network = randomised(ViTFeatures(config, "penultimate")).eval().requires_grad_(False)
    return network, x.contiguous(memory_format=torch.channels_last)


NETWORKS = {
    "unet-tiny": lambda: unet(UNET_TINY),
    "unet with attention": lambda: unet(ATTENDED),
    "unet that resamples inside of blocks": lambda: unet(RESAMPLED),
    "unet that narrows": lambda: unet(NARROWING),
    "drunet": drunet,
    "mapper of tokens": lambda: mapper(128, 7),
    "mapper of pooled features": lambda: mapper(64, 1),
    "tower with QuickGELU": lambda: tower(activation="quick_gelu"),
    "tower with a stem": lambda: tower(stem=(8, 16)),
    "tower with rotary positions, registers, biases of patches and pixels left over": lambda: tower(
        **{"image_size": 27, "registers": 2, "rope_theta": 100.0, "learned_positions": False},
        **{"biases": ("q", "v", "o", "mlp", "patch"), "layer_scale": True, "activation": "silu_gated"},
    ),
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
    placed = for_device(plain)
    with torch.no_grad():
        got, wanted = placed(x), plain(x)
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    assert deviation(got, wanted) < TOLERANCES[dtype]


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mapper" not in name])
def test_is_the_same_function_in_float64(name):
    """What is left of the difference is rounding: biases, sums of weights and products are carried exactly."""
    plain, x = NETWORKS[name]()
    plain, x = plain.double(), x.double()
    with torch.no_grad():
        assert deviation(for_device(plain)(x), plain(x)) < 1e-13


def test_a_repetition_and_a_convolution_are_one():
    conv = randomised(torch.nn.Conv2d(3, 5, 3, padding=1)).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = conv(torch.nn.functional.interpolate(x, scale_factor=2.0)) - conv.bias[:, None, None]
        assert deviation(Convolution(conv, repeated=True)(x), wanted) < 1e-14


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_stays_as_it_is(name):
    plain, x = NETWORKS[name]()
    before = {key: (type(module), module.training) for key, module in plain.named_modules()}
    weights = {key: weight.clone() for key, weight in plain.state_dict().items()}
    with torch.no_grad():
        wanted = plain(x)
        placed = for_device(plain)
        placed(x)
        assert torch.equal(plain(x), wanted)
    assert {key: (type(module), module.training) for key, module in plain.named_modules()} == before
    assert all(torch.equal(weight, weights[key]) for key, weight in plain.state_dict().items())
    own = {id(weight) for weight in plain.parameters()}
    shared = sum(weight.numel() for weight in placed.parameters() if id(weight) in own)
    # The others are in another form.
    assert shared > 0.3 * sum(weight.numel() for weight in plain.parameters())


class Counted(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.name().partition("::")[2].partition(".")[0]] += 1
        return function(*args, **(kwargs or {}))


def counted(make, side):
    """Return the operators of two networks, on images of full size, without memory or arithmetic."""
    with FakeTensorMode(), torch.no_grad():
        x = torch.empty(4, 3, side, side).contiguous(memory_format=torch.channels_last)
        for network in make():
            for weight in network.parameters():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            with Counted() as mode:
                network(x)
            yield mode.calls


def test_operators_of_adm256():
    def both():
        network = FoldedUNet(ADM256)
        return DeviceUNet(network), with_token_attention(network)

    placed, plain = counted(both, 256)
    assert plain["native_group_norm"] == placed["group_norm_silu"] == 101
    assert (plain["silu"], plain["cat"], plain["upsample_nearest2d"], plain["clone"]) == (85, 18, 10, 32)
    # Nothing is activated, concatenated, repeated or copied on its own.
    assert not {"silu", "cat", "upsample_nearest2d", "clone", "copy_"} & set(placed)
    # The sums that no product takes: of blocks without a convolution beside them.
    assert (plain["add"], placed["add_"]) == (74, 22)
    assert (plain["convolution"], placed["convolution"]) == (106, 86)


def test_operators_of_a_tower():
    def both():
        network = ViTFeatures(VIT_L_14_336, "penultimate")
        return for_device(network), network

    placed, plain = counted(both, 336)
    assert plain["sigmoid"] == placed["quick_gelu"] == 23
    assert not {"sigmoid", "mul", "convolution"} & set(placed)


def test_operators_of_a_mapper():
    blocks = list(for_device(NETWORKS["mapper of tokens"]()[0]).modules())
    assert sum(isinstance(module, DeviceBlock) for module in blocks) == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_as_one_graph(place, name):
    plain, x = NETWORKS[name]()
    placed, x = for_device(plain.to(place)), x.to(place)
    with torch.no_grad():
        compiled = torch.compile(placed, fullgraph=True, backend="aot_eager")
        assert deviation(compiled(x), placed(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet with attention", "mapper of tokens"])
def test_inductor_compiles_it(place, name):
    plain, x = NETWORKS[name]()
    placed, x = for_device(plain.to(place)), x.to(place)
    with torch.no_grad():
        compiled = torch.compile(placed, fullgraph=True, dynamic=False)
        assert deviation(compiled(x), plain(x)) < TOLERANCES[torch.float32]


def test_other_networks_are_returned():
    other = torch.nn.Linear(3, 4)
    assert for_device(other) is other
