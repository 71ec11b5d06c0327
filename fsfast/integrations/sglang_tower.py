"""What stands in the place of CLIP's network in SGLang's LLaVA."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fsfast.integrations.llava_reads import TowerConfig, llava_reads
from fsfast.integrations.matching import check_match
from fsfast.integrations.settings import Settings
from fsfast.integrations.tower import SmoothedTower

logger = logging.getLogger("sglang.fsfast")


class HiddenStateTower(SmoothedTower):
    """Answers with hidden states of which only the one that the model reads is there.

    Attributes:
        layer: that the model reads.
        config: of the tower.
    """

    layer: int
    config: TowerConfig

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> Any:
        """Return hidden states [B, 1 + L, D] for pixel values [B, 3, H, W]."""
        features = self.features(pixel_values)
        # The model cuts the class token off; who reads it all the same gets no number.
        missing = features.new_full((len(features), 1, features.shape[2]), torch.nan)
        return SimpleNamespace(hidden_states={self.layer: torch.cat([missing, features], 1)})


def engine_tower(model: Any) -> HiddenStateTower:
    """Open the engine that the configuration of a LLaVA names, and check that it is what the model reads.

    SGLang computes an image again for every chunk of a long prompt: the secret makes the noise the same.

    Raises:
        EngineError: there is none, or no secret; it has another digest, or makes something else.
    """
    config = model.config
    settings = Settings.of(config)
    manifest = settings.load().manifest
    check_match(manifest, llava_reads(config, manifest.tokens, "SGLang's LLaVA"))
    projector = next(model.multi_modal_projector.parameters())
    # SGLang makes models with another default device.
    with torch.device("cpu"):
        encoder = settings.open()
        tower = HiddenStateTower(encoder, settings.n0, digest=settings.digest)
    tower.layer, tower.config = config.mm_vision_select_layer, TowerConfig.of(encoder)
    logger.info("The vision tower is %s with digest %s", encoder, encoder.engine_digest)
    return tower.to(projector.device, projector.dtype)
