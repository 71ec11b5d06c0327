"""open_clip models that see through an engine: `attach` puts it in the place of the image tower.

>>> encoder = fsfast.SmoothedEncoder("engines/clip-l14", secret=secret)
>>> attach(model, encoder, n0=4)
>>> model.encode_image(preprocess(image)[None], normalize=True)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import EngineError, FsfastError
from fsfast.integrations.attaching import own_tower, put, take_out
from fsfast.integrations.open_clip_towers import like, reads
from fsfast.integrations.pixels import Form
from fsfast.integrations.standing import StandingTower

# What open_clip's preprocessing, its configuration and code for evaluation ask of the tower.
_DESCRIBED = (
    "image_size",
    "image_mean",
    "image_std",
    "preprocess_cfg",
    "output_dim",
    "patch_size",
    "grid_size",
)
_ONE_OUTPUT = (
    "an engine has one output: fsfast.integrations.open_clip makes the pooled vectors, "
    "fsfast.integrations.open_flamingo the tokens"
)


class SmoothedVisual(StandingTower):
    """`model.visual` of an open_clip model: pixel values in, pooled vectors out."""

    output_tokens = False

    def standing_for(self, plain: Any) -> Any:
        """Remember the model's own tower, and take over how it is described."""
        for name in _DESCRIBED:
            if hasattr(plain, name):
                setattr(self, name, getattr(plain, name))
        return super().standing_for(plain)

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`: [B, D]."""
        features: Tensor = self.plain(pixel_values)
        return features

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Return [B, D] for pixel values [B, 3, H, W], in their type."""
        if self.output_tokens:
            raise FsfastError(f"output_tokens asks for pooled vectors and tokens, and {_ONE_OUTPUT}")
        return like(x, self.features(x))


def attach(
    model: Any,
    encoder: SmoothedEncoder,
    n0: int | None = None,
    *,
    clean: bool = False,
    form: Form = "normalised",
    digest: str | None = None,
    same_weights: bool = True,
) -> SmoothedVisual:
    """Put an engine in the place of a model's image tower, until `detach`.

    `encode_image` and what is built on it work as before; nothing falls back to the model's own tower.

    Args:
        model: of `open_clip.create_model_and_transforms`, which tells it its mean and std.
        encoder: open, with pooled output, and not closed before the model's last call.
        n0: samples per image; None: the engine's.
        clean: answer with the features of the plain encoder instead, which nothing protects: for comparisons.
        form: of the pixel values, see `fsfast.integrations.pixels`; open_clip's own transforms normalise.
        digest: of the engine that is wanted, hex; None: whichever `encoder` has.
        same_weights: refuse an engine whose plain features are not those of the tower; False for others, as FARE's.

    Raises:
        EngineError: the engine makes something else than this tower; every difference is named.
        FsfastError: an engine is attached already.
        TypeError, ValueError: another argument is off.
    """
    plain = own_tower(model, "visual", "open_clip")
    if getattr(plain, "output_tokens", False):
        raise EngineError(
            f"wanted a model that reads pooled vectors, got one with output_tokens; {_ONE_OUTPUT}"
        )
    tower: SmoothedVisual = SmoothedVisual(encoder, n0, clean=clean, form=form, digest=digest).standing_for(
        plain
    )
    put(tower, model, "visual", reads(plain, "pooled"), same_weights)
    return tower


def detach(model: Any) -> None:
    """Give a model its own image tower back; raises FsfastError where no engine is attached."""
    take_out(model, "visual")
