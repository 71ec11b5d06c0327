"""A vision tower for LLaVA's own repository: an engine with what its code asks of `CLIPVisionTower`."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import FsfastError
from fsfast.integrations.llava_reads import TowerConfig, llava_reads
from fsfast.integrations.matching import check_match
from fsfast.integrations.packages import host_package
from fsfast.integrations.standing import StandingTower


class EngineTower(StandingTower):
    """The engine itself, under the name that CLIP's network has in LLaVA's tower."""

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`."""
        features: Tensor = self.plain(pixel_values)
        return features


class VisionTower(nn.Module):
    """An engine with the constructor and the attributes of LLaVA's `CLIPVisionTower`.

    Args:
        vision_tower: name of the tower for which it stands.
        args: the model's configuration: mm_vision_select_layer, mm_vision_select_feature, mm_hidden_size.
        delay_load: stand empty until `load_model`, as LLaVA's does while weights of the model are read.
        encoder: open, and not closed before the model's last call.
        options: n0, clean, form and digest of `fsfast.integrations.tower.SmoothedTower`.

    Raises:
        EngineError: the engine makes something else than the model reads; every difference is named.
        FsfastError: the tower is to be trained, or has several scales.
    """

    def __init__(
        self,
        vision_tower: str,
        args: Any,
        delay_load: bool = False,
        *,
        encoder: SmoothedEncoder,
        **options: Any,
    ) -> None:
        super().__init__()
        for unfit in ("unfreeze_mm_vision_tower", "s2"):
            if getattr(args, unfit, False):
                raise FsfastError(
                    f"wanted a frozen tower of one scale, got {unfit} in the model's configuration"
                )
        self.vision_tower_name, self.is_loaded = vision_tower, False
        self.select_layer = args.mm_vision_select_layer
        self.select_feature = getattr(args, "mm_vision_select_feature", "patch")
        self.encoder, self.options = encoder, options
        check_match(encoder.manifest, llava_reads(args, encoder.tokens))
        side = isqrt(encoder.tokens)
        self.num_patches_per_side, self.num_patches, self.hidden_size = side, side**2, encoder.dim
        self.config = TowerConfig.of(encoder)
        if not delay_load:
            self.load_model()

    def load_model(self, device_map: Any = None) -> None:
        """Put the engine in; it stays on its own device, whatever the map says."""
        if not self.is_loaded:
            manifest, (height, width) = self.encoder.manifest, self.encoder.grid.size
            crop, mean, std = {"height": height, "width": width}, list(manifest.mean), list(manifest.std)
            self.vision_tower = EngineTower(self.encoder, **self.options)
            self.image_processor = host_package("transformers", "transformers").CLIPImageProcessor(
                size={"shortest_edge": height}, crop_size=crop, image_mean=mean, image_std=std
            )
            self.is_loaded = True

    @torch.no_grad()
    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Return [B, L, D] for images [B, 3, H, W], or [1, L, D] of each in a list, in the images' type."""
        if isinstance(images, list):
            features = self.vision_tower.features(torch.stack(images))
            return [one[None].to(image.dtype) for one, image in zip(features, images, strict=True)]
        return self.vision_tower.features(images).to(images.dtype)

    @property
    def dummy_feature(self) -> Tensor:
        """[1, D] zeros, for texts without an image."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.vision_tower.features_dtype)

    @property
    def dtype(self) -> torch.dtype:
        """To which pixel values are cast; see `SmoothedTower`."""
        return self.vision_tower.dtype

    @property
    def device(self) -> torch.device:
        """Where the model wants its pixel values."""
        return self.vision_tower.device
