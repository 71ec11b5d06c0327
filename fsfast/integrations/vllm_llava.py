"""LLaVA in vLLM with an engine for a vision tower: images in, smoothed features to the language model.

Imported by vLLM where a model's architecture is that of `fsfast.integrations.vllm_plugin`.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed import get_tp_group
from vllm.logger import init_logger
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from fsfast.errors import EngineError
from fsfast.integrations.matching import check_match
from fsfast.integrations.settings import HOST, Settings
from fsfast.integrations.tower import SmoothedTower
from fsfast.integrations.transformers.layers import LayerTower
from fsfast.integrations.vllm_processor import EmbeddedDummies, LevelsProcessor, PicturesAlone

logger = init_logger("vllm.fsfast")


class EngineTower(SmoothedTower):
    """The tower as vLLM's LLaVA calls it."""

    def forward(self, pixel_values: Tensor, feature_select_strategy: str) -> Tensor:
        """Return [B, L, D] of levels [B, 3, H, W] uint8; the strategy was checked before."""
        return self.features(pixel_values)


@MULTIMODAL_REGISTRY.register_processor(LevelsProcessor, info=PicturesAlone, dummy_inputs=EmbeddedDummies)
class FsfastLlava(LlavaForConditionalGeneration):
    """LLaVA whose vision tower is the engine that its configuration names; without one it does not start.

    Every tensor-parallel rank opens the engine and computes the features itself, from seeds that derive from the
    secret and the image; at the start they compare what they compute.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        model = vllm_config.model_config
        settings = Settings.of(model.hf_config)
        manifest, side = settings.load().manifest, model.hf_config.vision_config.image_size
        check_match(manifest, LayerTower.reads(model.hf_config, manifest, host=HOST, size=(side, side)))
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        with torch.device("cpu"), set_default_torch_dtype(torch.float32):
            encoder = settings.open()
        check_ranks(encoder)
        self.vision_tower = EngineTower(encoder, settings.n0, form="levels", digest=settings.digest)
        logger.info("The vision tower is %s with digest %s", encoder, encoder.engine_digest)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all weights but those of the tower that the checkpoint has."""
        return super().load_weights((n, w) for n, w in weights if not _of_the_tower(n))


def _of_the_tower(name: str) -> bool:
    return name.removeprefix("model.").startswith("vision_tower.")


def check_ranks(encoder: Any) -> None:
    """Refuse to start where ranks would compute other features: another secret, engine, machine or library.

    Raises:
        EngineError: this rank computes something else than the first.
    """
    group = get_tp_group()
    if group.world_size == 1:
        return
    black = np.zeros((*encoder.grid.size, 3), np.uint8)
    own = sha256(encoder.encode(black, 1).features.tobytes()).hexdigest()
    if group.broadcast_object(own, src=0) != own:
        raise EngineError(
            f"rank {group.rank_in_group} computes other features than the first: wanted one FSFAST_SECRET, one engine, "
            "and the same processors and packages for all ranks"
        )
