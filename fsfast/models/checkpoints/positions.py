"""Positions: learned ones at another resolution, rotary ones in another order of channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ResizedPositions:
    """A resize of the positions of patch tokens: bicubic, as transformers' interpolate_pos_encoding does it, or
    bilinear with aligned corners, as Qwen3-VL does it for every image.

    Attributes:
        begin: positions before those of the patches, which stay.
        side: patches along one side as stored.
        new: patches along one side of the result.
        aligned: whether it is bilinear, with aligned corners.
    """

    begin: int
    side: int
    new: int
    aligned: bool = False

    @property
    def note(self) -> str:
        """What was done, for the provenance."""
        how = "bilinear, corners aligned" if self.aligned else "bicubic"
        return f"positions resized from {self.side}×{self.side} to {self.new}×{self.new}, {how}"

    def of(self, positions: Tensor) -> Tensor:
        """[begin + side², D] → [begin + new², D]."""
        square = positions[self.begin :].T.unflatten(1, (self.side, self.side))
        resized = F.interpolate(
            square[None],
            size=(self.new, self.new),
            mode="bilinear" if self.aligned else "bicubic",
            align_corners=self.aligned,
        )
        return torch.cat([positions[: self.begin], resized[0].flatten(1).T]).contiguous()


def in_halves(into_three: Tensor, heads: int) -> Tensor:
    """The weight or bias of an attention's input for RotaryEmbedding's order of channels.

    Perception Encoder rotates neighbouring channels, the first half of a head by the column; we rotate halves against
    each other, the first half of each by the row. Products of queries and keys do not see the order.

    Args:
        into_three: [3·D, …], queries, keys, values.
        heads: of the attention.
    """
    *rotated, values = into_three.chunk(3)
    rest = into_three.shape[1:]
    ordered = []
    for part in rotated:
        # Axis of the image, frequency, one of two neighbours.
        pairs = part.reshape(heads, 2, -1, 2, *rest).flip(1)
        ordered.append(pairs.movedim(3, 1).reshape(part.shape))
    return torch.cat([*ordered, values])
