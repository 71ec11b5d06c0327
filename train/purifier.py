"""Stage 1: the one-step purifier, trained through the frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fsfast.engine.schedule import Denoise
from fsfast.models import UNet, predict_noise
from train.config import StudyConfig
from train.data import StudyData
from train.encoder import VanillaEncoder
from train.loop import step_generator
from train.losses import add_noise, feature_cosine, purifier_loss


class PurifierStage:
    """The denoiser's error, the features' angle and the pixels' error; L_P of Algorithm 1.

    Batches continue where the encoder's end, so that the encoder has not seen these images.

    Args:
        config: of the run.
        data: training data.
        encoder: frozen.
    """

    name = "purifier"

    def __init__(self, config: StudyConfig, data: StudyData, encoder: VanillaEncoder) -> None:
        self.config = config
        self.schedule = config.purifier.schedule
        self.digest = config.digest("purifier")
        self.parts: dict[str, str] = {}
        self.data = data
        self.encoder = encoder
        torch.manual_seed(config.seed + 1)
        self.module = UNet(config.purifier.unet).to(data.device)
        self.denoise = Denoise.at_sigma(config.sigma)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        config, weights = self.config, self.config.purifier
        clean = self.data.batch(config.encoder.schedule.steps + step, self.schedule.batch).images
        generator = step_generator(config.seed, self.name, step, clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        images = (clean, noise, add_noise(clean, noise, config.sigma))
        shares = (weights.cosine_weight, weights.pixel_weight)
        return purifying(self.module, self.denoise, self.encoder.tokens, images, shares)


def purifying(
    unet: nn.Module,
    denoise: Denoise,
    encode: Callable[[Tensor], Tensor],
    images: tuple[Tensor, Tensor, Tensor],
    weights: tuple[float, float],
    precision: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return L_P of a batch, and what is written to the log.

    Args:
        unet: the purifier's network, which is trained.
        denoise: its step.
        encode: the frozen encoder, [B, 3, H, W] in [0, 1] → [B, L, D].
        images: clean grid levels, the noise in standard deviations, and the noisy grid levels, [B, 3, H, W] each.
        weights: of the cosines' and of the pixels' part.
        precision: context in which the networks compute; None: as they are.
    """
    clean, noise, noisy = images
    x_t = denoise.noisy(noisy)
    with precision or nullcontext():
        noise_hat = predict_noise(unet, x_t, denoise.t).float()
        purified = denoise.purified(x_t, noise_hat)
        with torch.no_grad():
            anchor = encode(clean / 255.0)
        tokens = encode(purified)
    cosines = feature_cosine(tokens, anchor)
    loss = purifier_loss(noise_hat, noise, purified, clean / 255.0, cosines, *weights)
    error = (purified.detach() - clean / 255.0).square().mean().sqrt().item()
    return loss, {"cosine": cosines.mean().item(), "rmse": error}
