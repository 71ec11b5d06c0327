"""Which models are known, where their vision tower stands, and what they read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsfast.engine.manifest import Manifest
from fsfast.errors import FsfastError
from fsfast.integrations.matching import HostReads
from fsfast.integrations.pixels import Form
from fsfast.integrations.transformers.images import size_of
from fsfast.integrations.transformers.layers import LayerTower
from fsfast.integrations.transformers.qwen import PackedTower
from fsfast.integrations.transformers.towers import HostTower, LastTower

# model_type → the name of the tower in its module, and what takes its place.
HOSTS: dict[str, tuple[str, type[HostTower]]] = {
    "llava": ("vision_tower", LayerTower),
    "llava_next": ("vision_tower", LayerTower),
    "paligemma": ("vision_tower", LastTower),
    "gemma3": ("vision_tower", LastTower),
    "idefics3": ("vision_model", LastTower),
    "smolvlm": ("vision_model", LastTower),
    "qwen2_vl": ("visual", PackedTower),
    "qwen2_5_vl": ("visual", PackedTower),
    "qwen3_vl": ("visual", PackedTower),
}


@dataclass(frozen=True)
class Place:
    """Where a vision tower stands.

    Attributes:
        parent: the module that calls it.
        name: of the tower in it.
        config: of the whole model.
        tower_class: what can take its place.
    """

    parent: Any
    name: str
    config: Any
    tower_class: type[HostTower]

    @property
    def tower(self) -> Any:
        """What stands there now."""
        return getattr(self.parent, self.name)

    def reads(self, processor: Any, manifest: Manifest, form: Form) -> HostReads:
        """Return what the model reads from its tower, and how its processor makes pixel values."""
        images = processor.image_processor
        normalised = form == "normalised"
        return self.tower_class.reads(
            self.config,
            manifest,
            host=f"{type(self.parent).__name__} ({self.config.model_type})",
            size=size_of(images),
            mean=images.image_mean if normalised else None,
            std=images.image_std if normalised else None,
            rescale=images.rescale_factor if normalised else None,
        )


def find_place(model: Any) -> Place:
    """Return where the vision tower of a model stands, whatever is wrapped around it.

    Raises:
        FsfastError: it is none of HOSTS.
        TypeError: it is no model at all.
    """
    if not hasattr(model, "modules"):
        raise TypeError(f"wanted a model of transformers, got {type(model).__name__}")
    for module in model.modules():
        config = getattr(module, "config", None)
        name, tower_class = HOSTS.get(getattr(config, "model_type", ""), ("", HostTower))
        if name in module._modules:
            return Place(module, name, config, tower_class)
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    raise FsfastError(f"wanted a model of one of the types {', '.join(HOSTS)}, got {kind}")
