"""A typographic attack: the target's name in a box on the image (Goh et al. 2021)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Height of the letters, and the widest a word may be, as shares of the image.
_HEIGHT, _WIDEST = 0.25, 0.9


def pasted(levels: Tensor, words: list[str]) -> Tensor:
    """Return images with a word each, black on white at the lower edge, in Pillow's own font: [B, 3, H, W] levels."""
    return torch.stack([_pasted(image, word) for image, word in zip(levels, words, strict=True)])


def _pasted(image: Tensor, word: str) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).byte().cpu().numpy())
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    size = _HEIGHT * height
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
        if right - left <= _WIDEST * width or size <= 6:
            break
        size *= 0.9
    margin = max(1, round(0.02 * height))
    x, y = (width - (right - left)) / 2, height - (bottom - top) - 2 * margin
    draw.rectangle((x - margin, y - margin, x + (right - left) + margin, height - margin), fill="white")
    draw.text((x - left, y - top), word, fill="black", font=font)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pixels.to(image.device, image.dtype)
