"""The mapper as a GPU runs it: everything around its matrix products and its attention is two kernels per block."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fsfast.kernels.library import l2_norm_residual, layer_norm_conv
from fsfast.models.mapper import SMALLEST_NORM, FoldedBlock, FoldedMapper


class DeviceBlock(nn.Module):
    """A block of the mapper together with its residual connection; takes over the parts of a FoldedBlock."""

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp, self.conv = block.norm, block.attn, block.mlp, block.conv
        self.gain, self.shift = block.gain, block.shift

    def forward(self, z: Tensor) -> Tensor:
        """[B, L, D] contiguous → z + Δ, [B, L, D]."""
        norm, conv = self.norm, self.conv
        assert conv.bias is not None
        f, convolved = layer_norm_conv(z, norm.weight, norm.bias, conv.weight, conv.bias, eps=norm.eps)
        flat = f.flatten(0, 1)
        mlp = self.mlp(flat).view_as(z)
        attn = None if self.attn is None else self.attn(flat, z.shape[1]).view_as(z)
        return l2_norm_residual(z, mlp, attn, convolved, self.gain, self.shift, eps=SMALLEST_NORM)


class DeviceMapper(nn.Module):
    """A FoldedMapper of DeviceBlocks; its weights have the same names.

    Args:
        mapper: whose blocks are taken over.
    """

    def __init__(self, mapper: FoldedMapper) -> None:
        super().__init__()
        self.dim = mapper.dim
        self.blocks = nn.ModuleList([DeviceBlock(cast(FoldedBlock, block)) for block in mapper.blocks])

    def forward(self, z: Tensor) -> Tensor:
        """[B, L, D] → refined features, [B, L, D]."""
        z = z.contiguous()
        for block in self.blocks:
            z = block(z)
        return z
