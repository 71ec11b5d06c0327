"""The one-step purifier."""

import math

import pytest
import torch
from torch import nn

from fsfast.engine.schedule import alpha_bars
from fsfast.models import UNET_TINY, DRUNet, DRUNetConfig, OneStepPurifier, UNet


class Oracle(nn.Module):
    """Knows the clean image y in [−1, 1], so it can tell the noise in x_t; its variances are garbage."""

    def __init__(self, y, out_channels):
        super().__init__()
        self.y, self.out_channels = y, out_channels

    def forward(self, x_t, t):
        alpha_bar = alpha_bars()[t]
        noise = (x_t - math.sqrt(alpha_bar) * self.y) / math.sqrt(1 - alpha_bar)
        return torch.cat([noise, torch.full_like(noise, 1e3)], dim=1)[:, : self.out_channels]


@pytest.mark.parametrize("out_channels", [3, 6])
def test_a_perfect_noise_predictor_gives_the_clean_image(out_channels):
    levels = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    v = levels + 255 * 0.25 * torch.randn(levels.shape, generator=torch.Generator().manual_seed(1)).double()
    purifier = OneStepPurifier(Oracle(2 * levels / 255 - 1, out_channels), 0.25)
    torch.testing.assert_close(purifier(v), levels / 255, rtol=0, atol=1e-13)


def test_equals_the_formula(randomised):
    unet = randomised(UNet(UNET_TINY)).double()
    v = torch.randint(-80, 340, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).double()
    # σ = .5: the table of the specification.
    alpha_bar = alpha_bars()[259]
    x_t = math.sqrt(alpha_bar) * (2 * v / 255 - 1)
    x_0 = x_t / math.sqrt(alpha_bar) - math.sqrt(1 / alpha_bar - 1) * unet(x_t, 259)
    want = (x_0.clamp(-1, 1) + 1) / 2
    got = OneStepPurifier(unet, 0.5)(v)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    # Both ends of the clamp are reached, and not everywhere.
    assert got.min() == 0
    assert got.max() == 1
    assert ((got > 0) & (got < 1)).float().mean() > 0.2


def test_folded_and_unfolded_networks_give_the_same_image(randomised):
    unet = randomised(UNet(UNET_TINY))
    v = torch.randint(-80, 340, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    want = OneStepPurifier(unet, 0.25)(v)
    torch.testing.assert_close(OneStepPurifier(unet.at_sigma(0.25), 0.25)(v), want, rtol=0, atol=2e-6)


def test_a_network_for_one_noise_level_knows_its_timestep(randomised):
    drunet = randomised(DRUNet(DRUNetConfig((4, 8), (1, 1))))
    v = torch.randint(-80, 340, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    purifier = OneStepPurifier(drunet, 0.25)
    x_t = purifier.denoise.noisy(v)
    assert torch.equal(purifier(v), purifier.denoise.purified(x_t, drunet(x_t)))


def test_gradients_reach_the_network_and_the_image():
    torch.manual_seed(0)
    unet = UNet(UNET_TINY)
    v = (torch.rand(1, 3, 16, 16) * 255).requires_grad_()
    OneStepPurifier(unet, 0.25)(v).sum().backward()
    # The last convolution starts at zero; its own gradient does not.
    assert unet.out[2].weight.grad.abs().max() > 0
    assert v.grad.abs().max() > 0
