"""The DRUNet: its size, the function in words of torch alone, graph, training, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from fsfast.models import DRUNET_LIGHT, DRUNet, DRUNetConfig

NARROW = DRUNetConfig(widths=(4, 8), blocks=(1, 2))


def images(batch, size=16, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_the_light_one_has_the_size_that_its_name_promises():
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in DRUNet(DRUNET_LIGHT).parameters())
    assert parameters == 2_783_212
    assert DRUNET_LIGHT.size_multiple == 8


def test_equals_the_formula(randomised):
    """Two levels, written out: blocks that add, a convolution down, a product up, skip connections that are added."""
    network = randomised(DRUNet(NARROW)).double()
    weights = network.state_dict()

    def conv(x, name, **how):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **how)

    def block(x, name):
        return x + conv(conv(x, f"{name}.conv1", padding=1).relu(), f"{name}.conv2", padding=1)

    x = images(2, dtype=torch.float64)
    stem = conv(F.pixel_unshuffle(x, 2), "stem", padding=1)
    skip = block(stem, "down_blocks.0.0")
    h = block(block(conv(skip, "down.0", stride=2), "middle.0"), "middle.1")
    h = block(F.pixel_shuffle(conv(h, "up.0"), 2) + skip, "up_blocks.0.0")
    wanted = F.pixel_shuffle(conv(h + stem, "out", padding=1), 2)
    torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_exports(unshuffle, randomised, assert_exports):
    config = DRUNetConfig(NARROW.widths, NARROW.blocks, unshuffle)
    assert_exports(randomised(DRUNet(config)), images(5))


def test_a_new_network_predicts_no_noise():
    torch.manual_seed(0)
    assert torch.equal(DRUNet(NARROW)(images(1)), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 16, 16), (1, 3, 16, 18), (1, 3, 18, 16)])
def test_bad_images_are_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match="H and W multiples of 4, got"):
        DRUNet(NARROW)(torch.empty(shape))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (((), ()), "at least one level"),
        (((4, 8), (1,)), "as many of both"),
        (((4, 8), (1, 0)), "at least 1"),
        (((0, 8), (1, 1)), "at least 1"),
        (((4,), (1,), 0), "at least 1"),
    ],
)
def test_bad_configurations_are_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        DRUNetConfig(*fields)
