"""LLaVA reads one of its tower's hidden states: the engine's stands where that one would."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from fsfast.engine.manifest import Manifest
from fsfast.errors import FsfastError
from fsfast.integrations.matching import HostReads
from fsfast.integrations.transformers.towers import HostTower, patches, vision_output


class LayerTower(HostTower):
    """For models that read one of the hidden states, of CLIP or SigLIP, without the class token."""

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """As `HostTower.reads`."""
        vision, layer = config.vision_config, config.vision_feature_layer
        counted = range(-vision.num_hidden_layers - 1, 0)[layer] if isinstance(layer, int) else layer
        output = {-2: "penultimate", -1: "tokens"}.get(counted) if isinstance(layer, int) else None
        cut, has = config.vision_feature_select_strategy == "default", vision.model_type.startswith("clip")
        shape = patches(vision)
        # Without a class token "default" leaves the first patch out.
        shape["tokens"] -= cut and not has
        return HostReads(
            output=output or f"hidden_states[{layer}]", class_token=has and not cut, **shape, **said
        )

    def _cut(self) -> int:
        return int(self.model_config.vision_feature_select_strategy == "default")

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`."""
        states = self.plain(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features: Tensor = states[self.model_config.vision_feature_layer][:, self._cut() :]
        return features

    @torch.compiler.disable
    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        """Return hidden states of which only the one that the model's configuration names is there."""
        features = self.features(pixel_values)
        # The model cuts the class token off; who reads it all the same gets no number.
        states = torch.cat(
            [features.new_full((len(features), self._cut(), features.shape[2]), torch.nan), features], 1
        )
        layers = self.config.num_hidden_layers + 1
        place = range(layers)[self.model_config.vision_feature_layer]
        return vision_output(
            hidden_states=tuple(states if i == place else OtherLayer() for i in range(layers))
        )


class OtherLayer:
    """A hidden state for which the engine does not stand."""

    def __getitem__(self, index: Any) -> NoReturn:
        """Say so to who reads it."""
        raise FsfastError(
            "the engine stands for the layer that the model's configuration names; leave vision_feature_layer out of "
            "the call"
        )
