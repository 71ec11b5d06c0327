"""LLaVA in vLLM with an engine for a vision tower: images in, smoothed features to the language model.

Imported by vLLM where a model's architecture is that of `fsfast.integrations.vllm_plugin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed import get_tp_group
from vllm.logger import init_logger
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from fsfast.errors import EngineError
from fsfast.integrations.matching import HostReads, check_match
from fsfast.integrations.pixels import to_levels
from fsfast.integrations.tower import SmoothedTower
from fsfast.integrations.vllm_settings import Settings

logger = init_logger("vllm.fsfast")
_HOST = "vLLM's LLaVA"
# hidden_states[-1] is before the last normalisation.
_OUTPUTS = {-2: "penultimate", -1: "tokens"}


class LevelsProcessor(LlavaMultiModalProcessor):
    """Hands the image's levels on as uint8, which no cast of vLLM touches, under names of this engine in all caches."""

    def __init__(self, info: LlavaProcessingInfo, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        settings = Settings.of(info.get_hf_config())
        self._manifest = settings.load().manifest
        self._prefix = settings.cache_prefix()
        images = info.get_hf_processor().image_processor
        read = {"mean": images.image_mean, "std": images.image_std, "rescale": images.rescale_factor}
        check_match(self._manifest, HostReads(_HOST, **read))

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> Any:
        kwargs = {**hf_kwargs, "do_rescale": False, "do_normalize": False}
        processed = super()._call_hf_processor(hf_data, kwargs)
        # A request may ask for other processing: it is refused here, where that is the request's error alone.
        levels = to_levels(processed["pixel_values"], "levels", self._manifest)
        processed["pixel_values"] = torch.from_numpy(np.ascontiguousarray(np.moveaxis(levels, -1, 1)))
        return processed

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        found = super()._get_mm_hashes(inputs)
        return {kind: [self._named(name) for name in names] for kind, names in found.items()}

    def _named(self, name: str) -> str:
        # Hashed again: a client's uuid may be anything, and connectors make paths of it.
        return f"{self._prefix}-{sha256(name.encode()).hexdigest()}"


class EmbeddedDummies(LlavaDummyInputsBuilder[LlavaProcessingInfo]):
    """Profiles vLLM's memory with embeddings in the place of images: nothing is sampled for them."""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: object) -> Any:
        """Return zeros, as many as the largest number of images makes."""
        config, images = self.info.get_hf_config(), mm_counts.get("image", 0)
        shape = (images, self.info.get_max_image_tokens(), config.text_config.hidden_size)
        return {"image": torch.zeros(shape, dtype=self.info.ctx.model_config.dtype)} if images else {}


class EngineTower(SmoothedTower):
    """The tower as vLLM's LLaVA calls it."""

    def forward(self, pixel_values: Tensor, feature_select_strategy: str) -> Tensor:
        """Return [B, L, D] of levels [B, 3, H, W] uint8; `reads` has checked the strategy."""
        return self.features(pixel_values)


@MULTIMODAL_REGISTRY.register_processor(
    LevelsProcessor, info=LlavaProcessingInfo, dummy_inputs=EmbeddedDummies
)
class FsfastLlava(LlavaForConditionalGeneration):
    """LLaVA whose vision tower is the engine that its configuration names; without one it does not start.

    Every tensor-parallel rank opens the engine and computes the features itself, from seeds that derive from the
    secret and the image; at the start they compare what they compute.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        model = vllm_config.model_config
        settings = Settings.of(model.hf_config)
        check_match(settings.load().manifest, reads(model.hf_config))
        if model.multimodal_config.enable_mm_embeds:
            raise EngineError(
                "wanted images alone, got --enable-mm-embeds, with which clients send features that nothing smoothed; "
                "leave it out, or serve a model without a tower"
            )
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


def reads(config: Any) -> HostReads:
    """Return what a LLaVA reads of its tower, by its configuration.

    Raises:
        EngineError: its tower is none of CLIP or SigLIP.
    """
    vision, layer = config.vision_config, config.vision_feature_layer
    if vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise EngineError(f"wanted a LLaVA with a tower of CLIP or SigLIP, got {vision.model_type}")
    if isinstance(layer, int) and layer >= 0:
        layer -= vision.num_hidden_layers + 1
    return HostReads(
        _HOST,
        output=_OUTPUTS.get(layer if isinstance(layer, int) else 0, f"layer {layer}"),
        tokens=(vision.image_size // vision.patch_size) ** 2,
        dim=vision.hidden_size,
        # SigLIP has none, and "full" then means its patches.
        class_token=config.vision_feature_select_strategy == "full" and vision.model_type.startswith("clip"),
        size=(vision.image_size, vision.image_size),
    )


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
