"""LLaVA's own repository with an engine for a vision tower: in a model that is loaded, or from the start.

>>> encoder = fsfast.SmoothedEncoder("engines/llava-1.5", secret=secret)
>>> attach(model, encoder, n0=4)
>>> model.generate(input_ids, images=process_images(images, image_processor, model.config))
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import BackendUnavailable, FsfastError, brief
from fsfast.integrations.agreement import check_agreement
from fsfast.integrations.llava_tower import VisionTower

_FACTORY = "llava.model.multimodal_encoder.builder"


def attach(
    model: Any,
    encoder: SmoothedEncoder,
    n0: int | None = None,
    *,
    same_weights: bool = True,
    **options: Any,
) -> VisionTower:
    """Put an engine in the place of the tower of a loaded LLaVA, until `detach`; nothing falls back to its own.

    Args:
        model: LlavaLlamaForCausalLM or a sister, of `load_pretrained_model`.
        encoder: open, of the layer that the model reads, and not closed before its last call.
        n0: samples per image; None: the engine's.
        same_weights: refuse an engine whose plain features are not those of the tower; False for others, as FARE's.
        options: clean, form and digest of `fsfast.integrations.tower.SmoothedTower`.

    Raises:
        EngineError: the engine makes something else than the model reads; every difference is named.
        FsfastError: an engine is attached already, or the tower is no single frozen one.
    """
    own = model.get_vision_tower()
    if isinstance(own, VisionTower):
        raise FsfastError("an engine is attached to this model already; detach(model) first")
    if not own.is_loaded:
        raise FsfastError(
            "wanted a model with its tower loaded; for one without call build_engines before it is made"
        )
    tower = VisionTower(own.vision_tower_name, model.config, encoder=encoder, n0=n0, **options)
    tower.vision_tower.standing_for(own)
    if same_weights:
        check_agreement(tower.vision_tower)
    model.get_model().vision_tower = tower
    return tower


def detach(model: Any) -> None:
    """Give a model the tower back in whose place `attach` put an engine; raises FsfastError where there is none."""
    tower = model.get_vision_tower()
    own = tower.vision_tower.plain if isinstance(tower, VisionTower) and tower.is_loaded else None
    if own is None:
        raise FsfastError("no engine is attached to this model in the place of a tower of its own")
    model.get_model().vision_tower = own.to(tower.device)


def build_engines(encoder: SmoothedEncoder, n0: int | None = None, **options: Any) -> None:
    """Let LLaVA's factory make engines from here on: models that are made later load no tower of their own.

    Args:
        encoder, n0, options: as in `attach`.

    Raises:
        BackendUnavailable: LLaVA's repository is missing.
    """
    try:
        builder = import_module(_FACTORY)
    except ImportError as error:
        raise BackendUnavailable(
            f"wanted LLaVA's own repository, {_FACTORY} cannot be imported ({brief(error)}); add a clone of "
            "https://github.com/haotian-liu/LLaVA to PYTHONPATH"
        ) from error
    made = partial(VisionTower, encoder=encoder, n0=n0, **options)
    builder.CLIPVisionTower = builder.CLIPVisionTowerS2 = made  # type: ignore[attr-defined]
