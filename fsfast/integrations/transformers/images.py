"""An image processor that hands levels to the engine, without normalising what the tower would have to undo."""

from __future__ import annotations

import copy
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.images.grid import to_grid
from fsfast.integrations.pixels import Form

# Models whose processors cut images into tiles; the others get the engine's own grid.
TILED = ("LlavaNext", "Idefics3", "SmolVLM")
_CHANGES_VALUES = ("do_rescale", "do_normalize")
_CHANGES_SHAPES = ("do_resize", "do_center_crop", "do_pad", "do_convert_rgb")


def form_of(processor: Any) -> Form:
    """Return how a processor hands over pixels.

    Raises:
        ValueError: it rescales and does not normalise, or the reverse.
        TypeError: it has no image processor.
    """
    images = getattr(processor, "image_processor", None)
    if images is None:
        raise TypeError(
            f"wanted the model's processor with its image_processor, got {type(processor).__name__}; "
            "AutoProcessor.from_pretrained loads it"
        )
    if isinstance(images, GridImageProcessor):
        return images.form
    steps = {step: getattr(images, step, None) for step in _CHANGES_VALUES}
    if all(done is True for done in steps.values()):
        return "normalised"
    if all(done is False for done in steps.values()):
        return "levels"
    raise ValueError(f"wanted an image processor with both of these steps, or none of them, got {steps}")


def size_of(images: Any) -> tuple[int, int] | None:
    """Return the (height, width) that a host's image processor says it makes, or None."""
    if isinstance(images, GridImageProcessor):
        return None
    cropped = getattr(images, "do_center_crop", False)
    said = getattr(images, "crop_size" if cropped else "size", None) or {}
    height, width = (
        said.get(side) if hasattr(said, "get") else getattr(said, side, None) for side in ("height", "width")
    )
    return (int(height), int(width)) if height and width else None


def level_processor(processor: Any, encoder: SmoothedEncoder) -> Any:
    """Return a copy of a model's processor whose image processor hands levels to the engine.

    Images come onto the grid as `encoder.prepare` puts them there, so that their certificates are those of `fsfast
    certify`; where a model cuts images into tiles its own processor does that. Levels survive float16 and bfloat16, to
    which pipelines and models cast pixel values.

    Args:
        processor: of the model; not changed.
        encoder: that `attach` gets, with this processor.

    Raises:
        TypeError: it has no image processor.
    """
    form_of(processor)
    own = copy.copy(processor)
    own.image_processor = GridImageProcessor(processor.image_processor, encoder)
    return own


class GridImageProcessor:
    """A host's image processor behind `encoder.prepare`: what is not said here is the host's.

    Args:
        host: the image processor.
        encoder: whose grid images are put on.
    """

    def __init__(self, host: Any, encoder: SmoothedEncoder) -> None:
        self._host, self._encoder = host, encoder
        name = type(host).__name__
        self._cuts = name.startswith(TILED)
        self.form: Form = "levels from 1" if name.startswith(TILED[1:]) else "levels"

    def __getattr__(self, name: str) -> Any:
        # Copying asks before there is a host.
        if name.startswith("__") or name == "_host":
            raise AttributeError(name)
        return getattr(self._host, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        """Return what the host makes of the images, with levels as pixel values."""
        tiled = self._cuts or options.get("do_pan_and_scan", getattr(self._host, "do_pan_and_scan", False))
        steps = _CHANGES_VALUES if tiled else _CHANGES_VALUES + _CHANGES_SHAPES
        options |= {step: False for step in steps if hasattr(self._host, step)}
        if tiled:
            return self._above_padding(self._host(images, **options))
        return self._host(self._on_grid(images), **options)

    def _above_padding(self, batch: Any) -> Any:
        """Add 1 to the levels of images, where the model takes those of zeros for padding."""
        if self.form == "levels from 1":
            values, mask = batch["pixel_values"], batch["pixel_attention_mask"]
            batch["pixel_values"] = values * 1.0 + (mask != 0)[:, :, None]
        return batch

    def _on_grid(self, images: Any) -> Any:
        """Put images on the grid; lists in lists stay so."""
        if isinstance(images, (list, tuple)):
            return [self._on_grid(image) for image in images]
        (item,), _ = to_grid(images, self._encoder.grid)
        return item.pixels
