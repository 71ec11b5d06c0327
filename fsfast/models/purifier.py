"""One-step denoising as a torch module: for training and as the reference of the engine's kernels."""

from typing import TypeAlias

from torch import Tensor, nn

from fsfast.engine.schedule import Denoise
from fsfast.models.drunet import DRUNet, DRUNetConfig
from fsfast.models.unet import IMAGE_CHANNELS, FoldedUNet, UNet, UNetConfig

# What is trained to predict noise, and its sizes.
Denoiser: TypeAlias = UNet | DRUNet
DenoiserConfig: TypeAlias = UNetConfig | DRUNetConfig


def new_denoiser(config: DenoiserConfig) -> Denoiser:
    """Return the network of a configuration, as torch initialises it."""
    return UNet(config) if isinstance(config, UNetConfig) else DRUNet(config)


def predict_noise(denoiser: nn.Module, x_t: Tensor, t: int) -> Tensor:
    """Return ε̂(x_t, t).

    Args:
        denoiser: a UNet; or, for this t alone, a FoldedUNet or a DRUNet.
        x_t: [M, 3, H, W] float, see `UNet.forward`.
        t: the timestep.

    Returns:
        [M, 3, H, W].

    Raises:
        ValueError: x_t has another shape.
    """
    if isinstance(denoiser, FoldedUNet | DRUNet):
        return denoiser(x_t)
    noise: Tensor = denoiser(x_t, t)[:, :IMAGE_CHANNELS]
    return noise


class OneStepPurifier(nn.Module):
    """The purifier P: predict the noise at the timestep that matches sigma, subtract it, clamp.

    x_t = √ᾱ·(2v/255 − 1);  x₀ = x_t/√ᾱ − √(1/ᾱ−1)·ε̂(x_t, t*);  P(v) = (clamp(x₀, −1, 1) + 1) / 2.
    Source: Carlini et al. 2023, "(Certified!!) Adversarial Robustness for Free!", with noise on the grid.

    Args:
        unet: a UNet; or, for this sigma alone, a FoldedUNet made by `UNet.at_sigma` or a DRUNet.
        sigma: standard deviation of the noise on pixels in [0, 1].

    Raises:
        ValueError: sigma is outside the schedule.
    """

    def __init__(self, unet: Denoiser | FoldedUNet, sigma: float) -> None:
        super().__init__()
        self.unet = unet
        self.denoise = Denoise.at_sigma(sigma)

    def forward(self, v: Tensor) -> Tensor:
        """Purify noisy images.

        Args:
            v: [M, 3, H, W] float, grid levels 0..255 plus noise of standard deviation 255·sigma, not clamped.

        Returns:
            [M, 3, H, W] in [0, 1], of v's dtype.

        Raises:
            ValueError: v has another shape.
        """
        constants = self.denoise
        x_t = constants.noisy(v)
        return constants.purified(x_t, predict_noise(self.unet, x_t, constants.t))
