"""What happens to pictures without an attacker: JPEG, blur, brightness."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

JPEG_QUALITY = 30
# Standard deviation, of the image's height.
BLUR = 1 / 64
BRIGHTER = 1.5


def jpeg(image: Image.Image) -> Image.Image:
    """Compress and read again."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image) -> Image.Image:
    """Blur by a Gaussian."""
    return image.filter(ImageFilter.GaussianBlur(BLUR * image.height))


def brightness(image: Image.Image) -> Image.Image:
    """Multiply all levels, which end at 255."""
    return image.point(lambda level: min(255, round(BRIGHTER * level)))


DISTORTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "blur": blur,
    "brightness": brightness,
}


def distorted(levels: Tensor, name: str) -> Tensor:
    """Return images under a distortion: [B, 3, H, W] whole levels."""
    pictures = [
        DISTORTIONS[name](Image.fromarray(array)) for array in levels.permute(0, 2, 3, 1).byte().cpu().numpy()
    ]
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return stacked.to(levels.device, levels.dtype)
