"""Multimodal models of transformers that see through an engine: `attach` puts it in the place of the vision tower.

>>> encoder = fsfast.SmoothedEncoder("engines/llava-1.5", secret=secret)
>>> attach(model, processor, encoder, n0=4)
>>> model.generate(**processor(images=image, text=prompt, return_tensors="pt"))
"""

from __future__ import annotations

from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import FsfastError
from fsfast.integrations.agreement import check_agreement
from fsfast.integrations.matching import check_match
from fsfast.integrations.packages import host_package
from fsfast.integrations.tower import Handed, SmoothedTower
from fsfast.integrations.transformers.hosts import find_place
from fsfast.integrations.transformers.images import form_of, level_processor

__all__ = ["attach", "detach", "handed", "level_processor"]


def attach(
    model: Any,
    processor: Any,
    encoder: SmoothedEncoder,
    n0: int | None = None,
    *,
    clean: bool = False,
    digest: str | None = None,
    same_weights: bool = True,
) -> SmoothedTower:
    """Put an engine in the place of a model's vision tower, until `detach`.

    The model keeps its other parts, and everything that calls it works as before: generate, batches, pipelines. What
    `encoder` refuses, and pixel values that do not lie on its grid, become errors of the model; nothing falls back to
    its own tower. Beams and returned sequences of one image share its features. torch.compile breaks its graph around
    the tower.

    Args:
        model: LLaVA-1.5, LLaVA-NeXT, PaliGemma, Gemma 3, Idefics3, SmolVLM, Qwen2-VL, Qwen2.5-VL or Qwen3-VL, bare or
            with its head, in any precision, on any devices.
        processor: that makes the model's pixel values, or its `level_processor`; only read.
        encoder: open, and not closed before the model's last call. With a secret the same image gets the same noise.
        n0: samples per image; None: the engine's.
        clean: hand on the features of the plain encoder instead, which nothing protects: for comparisons.
        digest: of the engine that is wanted, hex; None: whichever `encoder` has.
        same_weights: refuse an engine whose plain features are not those of the tower; False where other weights are
            meant, as FARE's.

    Returns:
        The tower, which stands in the model now.

    Raises:
        EngineError: the engine is not what the model reads; every difference is named.
        FsfastError: an engine is attached already, or the model is none of these.
        BackendUnavailable: transformers is missing.
        TypeError, ValueError: another argument is off.
    """
    host_package("transformers", "transformers")
    place = find_place(model)
    if isinstance(place.tower, SmoothedTower):
        raise FsfastError("an engine is attached to this model already; detach(model) first")
    form = form_of(processor)
    tower = place.tower_class(encoder, n0, clean=clean, form=form, digest=digest).replacing(place)
    check_match(encoder.manifest, place.reads(processor, encoder.manifest, form))
    if same_weights:
        check_agreement(tower)
    setattr(place.parent, place.name, tower)
    return tower


def detach(model: Any) -> None:
    """Give a model its own vision tower back; nothing protects it then.

    Raises:
        FsfastError: no engine is attached.
    """
    place = find_place(model)
    setattr(place.parent, place.name, _attached(place.tower).plain)


def handed(model: Any) -> Handed:
    """Return the images and features of the model's last call, of every tile where images are cut into tiles.

    `encoder.certify(handed(model).images, served=handed(model).features)` certifies exactly what the language model
    got.

    Raises:
        FsfastError: no engine is attached, or no image was given yet.
    """
    return _attached(find_place(model).tower).handed


def _attached(tower: Any) -> Any:
    if not isinstance(tower, SmoothedTower):
        raise FsfastError(
            "no engine is attached to this model; attach(model, processor, encoder) puts one there"
        )
    return tower
