"""Qwen-VL hands over patches as rows: those of a merged square side by side, each image twice as two frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsfast.engine.manifest import Manifest
from fsfast.images.decoding import refusal
from fsfast.integrations.matching import HostReads
from fsfast.integrations.packages import host_package
from fsfast.integrations.transformers.towers import HostTower, vision_output


class PackedTower(HostTower):
    """For Qwen-VL: patches of all images in one row, merged tokens out, with DeepStack's where the model has them."""

    @property
    def spatial_merge_size(self) -> int:
        """Patches along the side of the square that becomes a token."""
        size: int = self.config.spatial_merge_size
        return size

    @classmethod
    def reads(cls, config: Any, manifest: Manifest, **said: Any) -> HostReads:
        """As `HostTower.reads`; the size is the engine's, since the tower takes any."""
        vision = config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        height, width = manifest.grid.size
        dim = vision.hidden_size if config.model_type == "qwen2_vl" else vision.out_hidden_size
        tokens = (height // side) * (width // side) * (1 + _taps(vision))
        return HostReads(output="merged", tokens=tokens, dim=dim, **said)

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """As `StandingTower.plain_features`."""
        rows, grid = packed(pixel_values, self.config)
        out = self.plain(rows, grid_thw=grid)
        if isinstance(out, Tensor):
            return out[None]
        merged, taps = (
            out if isinstance(out, tuple) else (out.pooler_output, getattr(out, "deepstack_features", ()))
        )
        return torch.cat([merged, *taps])[None]

    @torch.compiler.disable
    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> Any:
        """Return merged tokens [B·L, D] of images that all have the engine's grid, and those of the taps."""
        images = unpacked(hidden_states, grid_thw, self.config, self.encoder.manifest.grid.size)
        features = self.features(images)
        merged, *deep = (part.flatten(0, 1) for part in features.chunk(1 + _taps(self.config), 1))
        return _answer(self.model_config.model_type, merged, deep)


def _taps(vision: Any) -> int:
    """Return how many more layers than the last make tokens: DeepStack's."""
    return len(getattr(vision, "deepstack_visual_indexes", ()))


def packed(images: Tensor, vision: Any) -> tuple[Tensor, Tensor]:
    """Return [B, 3, H, W] as rows [B·patches, 3·frames·patch²], and each image's grid [B, 3]: frames, rows, columns."""
    batch, channels, height, width = images.shape
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    # [B, rows of squares, columns of squares, row, column, C, patch, patch]
    ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)
    twice = ordered.unsqueeze(6).expand(*ordered.shape[:6], frames, patch, patch)
    grid = torch.tensor([[1, rows, columns]] * batch, device=images.device)
    return twice.reshape(batch * rows * columns, -1), grid


def unpacked(values: Tensor, grid_thw: Tensor, vision: Any, size: tuple[int, int]) -> Tensor:
    """Return the images [B, 3, H, W] that `packed` made rows of.

    Raises:
        ImageError: some are not of this size, or are frames of a video.
    """
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = size[0] // patch, size[1] // patch
    found = grid_thw.tolist()
    if any(grid != [1, rows, columns] for grid in found):
        raise refusal(
            f"images of the engine's grid alone, {[1, rows, columns]} patches (frames, rows, columns)",
            f"{found}",
            "prepare them with level_processor(processor, encoder), which resizes to the grid; videos have no engine",
        )
    squares = (len(found), rows // merge, columns // merge, merge, merge)
    # [B, rows of squares, columns of squares, row, column, C, frames, patch, patch]
    cut = values.reshape(*squares, -1, frames, patch, patch)
    if not bool((cut[..., :1, :, :] == cut).all()):
        raise refusal("images that stand still", "frames that differ", "videos have no engine")
    return cut[..., 0, :, :].permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(len(found), -1, *size)


def _answer(model_type: str, merged: Tensor, deep: list[Tensor]) -> Any:
    """Return what this version of transformers expects: an output since 5.0, tensors before."""
    if int(host_package("transformers", "transformers").__version__.partition(".")[0]) < 5:
        return (merged, deep) if model_type == "qwen3_vl" else merged
    if model_type != "qwen3_vl":
        return vision_output(pooler_output=merged)
    modeling = host_package("transformers.models.qwen3_vl.modeling_qwen3_vl", "transformers")
    return modeling.BaseModelOutputWithDeepstackFeatures(pooler_output=merged, deepstack_features=deep)
