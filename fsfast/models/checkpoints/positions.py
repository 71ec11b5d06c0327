"""Learned positions at another resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ResizedPositions:
    """A resize of the positions of patch tokens, as transformers' interpolate_pos_encoding does it.

    Attributes:
        begin: positions before those of the patches, which stay.
        side: patches along one side as stored.
        new: patches along one side of the result.
    """

    begin: int
    side: int
    new: int

    @property
    def note(self) -> str:
        """What was done, for the provenance."""
        return f"positions resized from {self.side}×{self.side} to {self.new}×{self.new}, bicubic"

    def of(self, positions: Tensor) -> Tensor:
        """[begin + side², D] → [begin + new², D]."""
        square = positions[self.begin :].T.unflatten(1, (self.side, self.side))
        resized = F.interpolate(square[None], size=(self.new, self.new), mode="bicubic", align_corners=False)
        return torch.cat([positions[: self.begin], resized[0].flatten(1).T]).contiguous()
