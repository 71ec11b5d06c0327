"""What stands in the place of transformers' vision towers: each answers as the model that calls it expects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsfast.engine.manifest import Manifest
from fsfast.images.decoding import refusal
from fsfast.integrations.matching import HostReads
from fsfast.integrations.packages import host_package
from fsfast.integrations.tower import SmoothedTower


class HostTower(SmoothedTower):
    """A tower that remembers the one in whose place it stands."""

    def replacing(self, place: Any) -> Any:
        """Remember the tower that stands at a place, and take over its floating type."""
        # In a tuple: a module among the attributes would be moved, saved and counted with this one.
        self._plain = (place.tower,)
        self.model_config, self.config = place.config, place.config.vision_config
        floats = (p for p in self.plain.parameters() if p.is_floating_point())
        first = next(floats, None)
        if first is not None:
            self.to(device=None if first.is_meta else first.device, dtype=first.dtype)
        return self.train(self.plain.training)

    @property
    def plain(self) -> Any:
        """The tower in whose place this one stands."""
        return self._plain[0]

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """Return what a model with this configuration reads; `said` is what its processor says."""
        raise NotImplementedError

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """Return what the model reads from its own tower, [B, L, D], for normalised pixels [B, 3, H, W]."""
        raise NotImplementedError


class LastTower(HostTower):
    """For models that read `last_hidden_state`: SigLIP's tokens after its last normalisation."""

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """As `HostTower.reads`."""
        vision = config.vision_config
        return HostReads(output="tokens+ln_post", **patches(vision), **said)

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `HostTower.plain_features`."""
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
