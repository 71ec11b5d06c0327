"""Stage 1: the one-step purifier, trained through the frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from fsfast.engine.schedule import Denoise
from fsfast.models import UNet
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
        config, weights, denoise = self.config, self.config.purifier, self.denoise
        clean = self.data.batch(config.encoder.schedule.steps + step, self.schedule.batch).images
        generator = step_generator(config.seed, self.name, step, clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = add_noise(clean, noise, config.sigma)
        x_t = denoise.scale * noisy + denoise.offset
        noise_hat = self.module(x_t, denoise.t)[:, :3]
        purified = ((denoise.a * x_t - denoise.b * noise_hat).clamp(-1.0, 1.0) + 1.0) / 2.0
        with torch.no_grad():
            anchor = self.encoder.tokens(clean / 255.0)
        cosines = feature_cosine(self.encoder.tokens(purified), anchor)
        loss = purifier_loss(
            noise_hat, noise, purified, clean / 255.0, cosines, weights.cosine_weight, weights.pixel_weight
        )
        error = (purified.detach() - clean / 255.0).square().mean().sqrt().item()
        return loss, {"cosine": cosines.mean().item(), "rmse": error}
