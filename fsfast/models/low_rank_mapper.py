"""A linear mapper of low rank for one noise level: what remains of the smoothness mapper where it has to be small."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRankMapper(nn.Module):
    """z + z·V·U, each token on its own: what an engine runs, without folding.

    Without a bias the direction of the refined feature depends on that of z alone, and zeros stay zero. Weights: `down`
    (V) [D, rank] and `up` (U) [rank, D].

    Args:
        dim: channels D of a feature.
        rank: of V·U, in 1 … D.

    Raises:
        ValueError: the rank is none.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= dim:
            raise ValueError(f"wanted a rank in 1…{dim}, the channels of a feature, got {rank}")
        self.dim, self.rank = dim, rank
        self.down = nn.Parameter(dim**-0.5 * torch.randn(dim, rank))
        self.up = nn.Parameter(torch.zeros(rank, dim))

    def forward(self, z: Tensor) -> Tensor:
        """Refine features.

        Args:
            z: [B, L, D] float, features of noisy images; pooled features have L = 1.

        Returns:
            [B, L, D]: the refined features.

        Raises:
            ValueError: z has another shape.
        """
        if z.ndim != 3 or z.shape[2] != self.dim:
            raise ValueError(
                f"wanted z as [B, L, {self.dim}], got {list(z.shape)}; pooled features are [B, 1, D]"
            )
        refined: Tensor = z + z @ self.down @ self.up
        return refined
