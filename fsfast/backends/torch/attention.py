"""The U-Net's self-attention on tokens: what fused attention on a GPU takes.

The published order of channels gives queries, keys and values whose channels lie a whole image apart. torch's fused
kernels want them side by side, and would leave such tensors to a product that writes out all scores.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.models.unet_layers import AttentionBlock


class TokenAttention(nn.Module):
    """What `fsfast.models.unet_layers.AttentionBlock` computes, with its weights, up to the order of sums."""

    def __init__(self, block: AttentionBlock):
        super().__init__()
        self.heads = block.heads
        self.norm, self.qkv = block.norm, block.qkv
        self.proj_out = cast(nn.Conv1d, block.proj_out)

    def queries(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[M, C, H, W] → q, k, v, each [M, heads, H·W, C/heads] with its channels side by side."""
        tokens = self.norm(x.flatten(2)).transpose(1, 2)
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)
        # [M, heads, positions, 3·head_channels]
        q, k, v = qkv.unflatten(2, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C, H, W], channels_last if x is."""
        attended = F.scaled_dot_product_attention(*self.queries(x)).transpose(1, 2).flatten(2)
        out = F.linear(attended, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


def with_token_attention(module: nn.Module) -> nn.Module:
    """Replace the attention blocks inside a module, and return it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AttentionBlock):
                setattr(parent, name, TokenAttention(child))
    return module
