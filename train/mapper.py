"""Stage 2: the residual smoothness mapper, trained behind the frozen purifier and encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from fsfast.models import OneStepPurifier, SmoothnessMapper
from train.config import StudyConfig
from train.data import StudyData
from train.encoder import VanillaEncoder
from train.loop import step_generator
from train.losses import add_noise, feature_cosine, mapper_loss


class MapperStage:
    """The features' angle, their moments and the identity without noise; L_M of Algorithm 1.

    Args:
        config: of the run.
        data: training data.
        encoder: frozen.
        purifier: frozen, or None for the ablation without it.
    """

    def __init__(
        self, config: StudyConfig, data: StudyData, encoder: VanillaEncoder, purifier: OneStepPurifier | None
    ) -> None:
        self.name = "mapper" if purifier is not None else "mapper-alone"
        self.config = config
        self.schedule = config.mapper.schedule
        self.digest = config.digest("mapper")
        self.parts: dict[str, str] = {}
        self.data = data
        self.encoder = encoder
        self.purifier = purifier
        torch.manual_seed(config.seed + 2)
        self.module = SmoothnessMapper(config.encoder.vit.width, config.mapper.blocks).to(data.device)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        config = self.config
        number = config.encoder.schedule.steps + config.purifier.schedule.steps + step
        clean = self.data.batch(number, self.schedule.batch).images
        generator = step_generator(config.seed, self.name, step, clean.device)
        noises = config.mapper.noises
        with torch.no_grad():
            repeated = clean.repeat_interleave(noises, 0)
            z = torch.randn(repeated.shape, generator=generator, device=clean.device)
            noisy = add_noise(repeated, z, config.sigma)
            pixels = noisy / 255.0 if self.purifier is None else self.purifier(noisy)
            tokens = self.encoder.tokens(pixels)
            anchor = self.encoder.tokens(clean / 255.0).repeat_interleave(noises, 0)
        refined = self.module(tokens, config.sigma)
        # One image is enough for a term that is zero by construction.
        at_zero = self.module(tokens[:1], 0.0) - tokens[:1]
        loss = mapper_loss(
            refined, anchor, at_zero, config.mapper.stats_weight, config.mapper.identity_weight
        )
        shown = {
            "before": feature_cosine(tokens, anchor).mean().item(),
            "cosine": feature_cosine(refined.detach(), anchor).mean().item(),
        }
        return loss, shown
