"""OpenFlamingo that sees through an engine: `attach` puts it in the place of the vision encoder.

>>> encoder = fsfast.SmoothedEncoder("engines/openflamingo", secret=secret)
>>> attach(model, encoder, n0=4, layer="tokens")
>>> model.generate(vision_x, lang_x, attention_mask)
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import EngineError
from fsfast.integrations.attaching import own_tower, put, take_out
from fsfast.integrations.matching import output_name
from fsfast.integrations.open_clip_towers import like, reads
from fsfast.integrations.pixels import Form
from fsfast.integrations.standing import StandingTower

Layer = Literal["tokens", "tokens+ln_post"]


class SmoothedTokens(StandingTower):
    """`vision_encoder` of a Flamingo: pixel values in, tokens out, in the second place of a pair."""

    layer: Layer

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`, of the chosen layer, whichever this version of open_clip hands on."""
        ln_post, self.plain.ln_post = self.plain.ln_post, nn.Identity()
        try:
            tokens: Tensor = self.plain(pixel_values)[1]
        finally:
            self.plain.ln_post = ln_post
        return tokens if self.layer == "tokens" else ln_post(tokens)

    @torch.compiler.disable
    def forward(self, x: Tensor) -> tuple[None, Tensor]:
        """Return tokens [B, L, D] for pixel values [B, 3, H, W], in their type; pooled vectors the engine has none."""
        return None, like(x, self.features(x))


def layer_of(visual: Any) -> Layer:
    """Return the layer that an image tower of this version of open_clip hands on as tokens."""
    # Before it had this choice open_clip normalised the pooled vector alone.
    return "tokens" if getattr(visual, "final_ln_after_pool", True) else "tokens+ln_post"


def attach(
    model: Any,
    encoder: SmoothedEncoder,
    n0: int | None = None,
    *,
    layer: Layer | None = None,
    clean: bool = False,
    form: Form = "normalised",
    digest: str | None = None,
    same_weights: bool = True,
) -> SmoothedTokens:
    """Put an engine in the place of a Flamingo's vision encoder, until `detach`; nothing falls back to its own.

    Args:
        model: of `open_flamingo.create_model_and_transforms`.
        encoder: open, with tokens for output, and not closed before the model's last call.
        layer: that the language model was trained with: "tokens" for published weights, "tokens+ln_post" for those
            trained with open_clip 2.24 or later; None: the one that the installed open_clip hands on.
        n0, clean, form, digest, same_weights: as in `fsfast.integrations.open_clip.attach`.

    Raises:
        EngineError: the engine makes something else than the language model reads; every difference is named.
        FsfastError: an engine is attached already.
        TypeError, ValueError: another argument is off.
    """
    if layer not in (None, *get_args(Layer)):
        raise ValueError(f"wanted the layer as one of {', '.join(get_args(Layer))}, or None, got {layer!r}")
    plain = own_tower(model, "vision_encoder", "open_flamingo")
    tower: SmoothedTokens = SmoothedTokens(encoder, n0, clean=clean, form=form, digest=digest).standing_for(
        plain
    )
    tower.layer = layer or layer_of(plain)
    found = output_name(encoder.manifest)
    if layer is None and found in get_args(Layer) and found != tower.layer:
        raise EngineError(
            f"the installed open_clip hands {tower.layer} on, the engine makes {found}, and the language model knows "
            "which of the two it was trained with; name it: layer='tokens' for OpenFlamingo's published weights "
            "(open_clip 2.20), layer='tokens+ln_post' for weights trained with 2.24 or later"
        )
    put(tower, model, "vision_encoder", reads(plain, tower.layer, "OpenFlamingo"), same_weights)
    return tower


def detach(model: Any) -> None:
    """Give a model its own vision encoder back; raises FsfastError where no engine is attached."""
    take_out(model, "vision_encoder")
