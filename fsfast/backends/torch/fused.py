"""Networks whose normalisations run in kernels of our own: GroupNorm with SiLU, and the mapper's blocks.

Not used by any encoder: `python -m benchmarks gpu-parts` compares these networks with torch.compile's on a GPU, and
they stay out until they are faster there.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from fsfast.kernels.library import group_norm_silu, l2_norm_residual, layer_norm_conv
from fsfast.models.mapper import SMALLEST_NORM, FoldedBlock, FoldedMapper
from fsfast.models.unet_layers import AttentionBlock


class GroupNormSiLU(nn.Module):
    """GroupNorm and, if asked for, SiLU in one operator; takes over the weights of an nn.GroupNorm.

    Args:
        norm: with an affine.
        silu: apply SiLU.
    """

    def __init__(self, norm: nn.GroupNorm, silu: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] or [M, C, L] → the same shape, channels last in memory."""
        image = x if x.ndim == 4 else x.unsqueeze(3)
        image = image.contiguous(memory_format=torch.channels_last)
        y = group_norm_silu(image, self.weight, self.bias, self.groups, eps=self.eps, silu=self.silu)
        return y if x.ndim == 4 else y.squeeze(3)


class FusedBlock(nn.Module):
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


class FusedMapper(nn.Module):
    """A FoldedMapper of FusedBlocks; its weights have the same names.

    Args:
        mapper: whose blocks are taken over.
    """

    def __init__(self, mapper: FoldedMapper) -> None:
        super().__init__()
        self.dim = mapper.dim
        self.blocks = nn.ModuleList([FusedBlock(cast(FoldedBlock, block)) for block in mapper.blocks])

    def forward(self, z: Tensor) -> Tensor:
        """[B, L, D] → refined features, [B, L, D]."""
        z = z.contiguous()
        for block in self.blocks:
            z = block(z)
        return z


def fuse(module: nn.Module) -> nn.Module:
    """Return a network that computes the same with fewer kernels, from the same weights, not copied.

    Args:
        module: a FoldedUNet, a FoldedMapper, or any other network; it stays as it is.

    Returns:
        a module with the same names of weights, in the same mode. In it GroupNorm, with SiLU where that follows, and a
        mapper's blocks are operators of `fsfast.kernels.library`; where there are none of these it computes as before.
        Outputs differ by rounding: 1e-6 of their range in float32 (unet-tiny, mapper of 64 channels, random weights).
    """
    if isinstance(module, FoldedMapper):
        return FusedMapper(module).train(module.training)
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    fused = copy.deepcopy(module, shared)
    for layer in list(fused.modules()):
        if isinstance(layer, AttentionBlock):
            layer.norm = cast(nn.GroupNorm, GroupNormSiLU(layer.norm, silu=False))
        elif isinstance(layer, nn.Sequential):
            _fuse_pairs(layer)
    return fused.train(module.training)


def _fuse_pairs(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        norm = layers[index]
        if isinstance(norm, nn.GroupNorm) and isinstance(layers[index + 1], nn.SiLU):
            layers[index] = GroupNormSiLU(norm, silu=True)
            # Its place stays: names of weights contain numbers.
            layers[index + 1] = nn.Identity()
