"""Random crops of images, resized to their full size, with gradients: the views that M-Attack compares."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Width over height.
RATIOS = (3 / 4, 4 / 3)
_TRIES = 10

# Top, left, height and width.
Box = tuple[int, int, int, int]


def random_box(size: tuple[int, int], scale: tuple[float, float], generator: torch.Generator) -> Box:
    """Draw a crop: its share of the area uniform in `scale`, the logarithm of its proportions uniform.

    Args:
        size: height and width of the image.
        scale: smallest and largest share.
        generator: on the CPU.

    Returns:
        A box inside; the whole image after ten draws of boxes that do not fit.
    """
    height, width = size
    for _ in range(_TRIES):
        area, along, top, left = torch.rand(4, generator=generator).tolist()
        share = scale[0] + area * (scale[1] - scale[0])
        ratio = math.exp(math.log(RATIOS[0]) + along * math.log(RATIOS[1] / RATIOS[0]))
        w, h = (round(math.sqrt(share * height * width * r)) for r in (ratio, 1 / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    return 0, 0, height, width


def cropped(levels: Tensor, boxes: list[Box]) -> Tensor:
    """Return every image's box, magnified bilinearly to the size of the image: [B, 3, H, W] → [B, 3, H, W]."""
    size = levels.shape[2:]
    return torch.cat(
        [
            F.interpolate(image[None, :, top : top + h, left : left + w], size, mode="bilinear")
            for image, (top, left, h, w) in zip(levels, boxes, strict=True)
        ]
    )


class Crops:
    """The crops of one run: an image's boxes depend on the seed, the iteration and its place alone.

    Args:
        scale: smallest and largest share of the area.
        seed: of the boxes.
    """

    def __init__(self, scale: tuple[float, float], seed: int) -> None:
        self.scale, self.seed = scale, seed

    def __call__(self, levels: Tensor, iteration: int, purpose: str) -> Tensor:
        """Return the images' crops of an iteration; source and target have their own by `purpose`."""
        from train.loop import step_generator

        generator = step_generator(self.seed, f"crop {purpose}", iteration, torch.device("cpu"))
        size = (levels.shape[2], levels.shape[3])
        return cropped(levels, [random_box(size, self.scale, generator) for _ in levels])
