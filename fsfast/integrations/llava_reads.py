"""What LLaVA in the format of its own repository reads of its tower, and asks of the tower's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.integrations.matching import HostReads

# hidden_states[-1] is before the last normalisation.
LAYERS = {-2: "penultimate", -1: "tokens"}


@dataclass(frozen=True)
class TowerConfig:
    """What LLaVA asks of the configuration of its tower."""

    hidden_size: int
    image_size: int
    patch_size: int

    @classmethod
    def of(cls, encoder: SmoothedEncoder) -> TowerConfig:
        """Describe an engine of square patches."""
        height, _ = encoder.grid.size
        return cls(encoder.dim, height, height // isqrt(encoder.tokens))


def llava_reads(config: Any, tokens: int, host: str = "LLaVA") -> HostReads:
    """Return what a model reads of its tower, by its configuration; L only has to be a square's."""
    layer = config.mm_vision_select_layer
    return HostReads(
        host,
        output=LAYERS.get(layer, f"hidden_states[{layer}]"),
        tokens=isqrt(tokens) ** 2,
        dim=getattr(config, "mm_hidden_size", None),
        class_token=getattr(config, "mm_vision_select_feature", "patch") != "patch",
    )
