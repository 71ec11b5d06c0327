"""What stands in the place of transformers' vision towers: each answers as the model that calls it expects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsfast.engine.manifest import Manifest
from fsfast.images.decoding import refusal
from fsfast.integrations.matching import HostReads
from fsfast.integrations.packages import host_package
from fsfast.integrations.standing import StandingTower


class HostTower(StandingTower):
    """A tower that knows the configurations of the model and of its own tower."""

    def replacing(self, place: Any) -> Any:
        """Stand for the tower at a place."""
        self.model_config, self.config = place.config, place.config.vision_config
        return self.standing_for(place.tower)

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """Return what a model with this configuration reads; `said` is what its processor says."""
        raise NotImplementedError


class LastTower(HostTower):
    """For models that read `last_hidden_state`: SigLIP's tokens after its last normalisation."""

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """As `HostTower.reads`."""
        vision = config.vision_config
        return HostReads(output="tokens+ln_post", **patches(vision), **said)

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`."""
        features: Tensor = self.plain(pixel_values=pixel_values, return_dict=True).last_hidden_state
        return features

    @torch.compiler.disable
    def forward(self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **_: Any) -> Any:
        """Return the features as the last hidden state; `patch_attention_mask` must leave every patch in."""
        if patch_attention_mask is not None and not bool(patch_attention_mask.all()):
            raise refusal(
                "images that fill the engine's grid",
                "some with padding",
                "set do_image_splitting = True in the image processor, so that it cuts images into whole tiles",
            )
        return vision_output(last_hidden_state=self.features(pixel_values))


def patches(vision: Any) -> dict[str, Any]:
    """Return L and D of a tower with square images and no other tokens than patches."""
    side = vision.image_size // vision.patch_size
    return {"tokens": side * side, "dim": vision.hidden_size}


def vision_output(**values: Any) -> Any:
    """Return an output of transformers' own."""
    return host_package("transformers.modeling_outputs", "transformers").BaseModelOutputWithPooling(**values)
