"""What hosts of open_clip's image towers read from them, and in which type."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from fsfast.integrations.matching import HostReads


def like(x: Tensor, features: Tensor) -> Tensor:
    """Return features in the type of normalised pixel values, as open_clip's towers answer; levels have none."""
    return features.to(x.dtype) if x.is_floating_point() else features


def reads(visual: Any, output: str, host: str = "open_clip") -> HostReads:
    """Return what is read from an image tower of open_clip: its pooled vectors, or one of its layers of tokens."""
    pooled, grid, size = (
        output == "pooled",
        getattr(visual, "grid_size", None),
        getattr(visual, "image_size", None),
    )
    width = getattr(getattr(visual, "conv1", None), "out_channels", None)
    return HostReads(
        host,
        output=output,
        tokens=1 if pooled else grid and prod(grid),
        dim=getattr(visual, "output_dim", None) if pooled else width,
        size=(size, size) if isinstance(size, int) else size and (size[0], size[1]),
        mean=getattr(visual, "image_mean", None),
        std=getattr(visual, "image_std", None),
    )
