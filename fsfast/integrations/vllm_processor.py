"""How vLLM prepares pictures for LLaVA with an engine: as levels, and under names of that engine in its caches."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal.parse import EmbeddingItems

from fsfast.integrations.matching import HostReads, check_match
from fsfast.integrations.pixels import to_levels
from fsfast.integrations.settings import HOST, Settings


class PicturesAlone(LlavaProcessingInfo):
    """Refuses embeddings, which clients may send where a server reads caches of others: nothing smoothed them."""

    def parse_mm_data(self, mm_data: Any, *, validate: bool = True) -> Any:
        """Return the items of a request; what is not to be validated comes from vLLM itself.

        Raises:
            ValueError: some are embeddings.
        """
        items = super().parse_mm_data(mm_data, validate=validate)
        if validate and any(isinstance(found, EmbeddingItems) for found in items.values()):
            raise ValueError(
                "wanted pictures, got embeddings, which this server's engine did not make; send pictures, or ask a "
                "server without a tower"
            )
        return items


class LevelsProcessor(LlavaMultiModalProcessor):
    """Hands the image's levels on as uint8, which no cast of vLLM touches, under names of this engine in all caches."""

    def __init__(self, info: LlavaProcessingInfo, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        settings = Settings.of(info.get_hf_config())
        self._manifest = settings.load().manifest
        self._prefix = settings.cache_prefix()
        images = info.get_hf_processor().image_processor
        read = {"mean": images.image_mean, "std": images.image_std, "rescale": images.rescale_factor}
        check_match(self._manifest, HostReads(HOST, **read))

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
