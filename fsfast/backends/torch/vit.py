"""The vision transformer as a GPU runs it: QuickGELU in one pass, patches by a matrix product."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fsfast.kernels.library import quick_gelu
from fsfast.models.vit import ViTFeatures
from fsfast.models.vit_layers import QuickGELU


class OnePassQuickGELU(nn.Module):
    """x·sigmoid(1.702·x) of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """[M·L, D] → the same shape."""
        return quick_gelu(x)


class PatchProduct(nn.Module):
    """A patch embedding whose patches do not overlap, as one matrix product.

    Args:
        conv: stride and size of its kernel are the same.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.patch = conv.stride[0]
        # Pixels in the order of channels_last images: rows, columns, channels.
        weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, pixels: Tensor) -> Tensor:
        """[M, 3, S, S] → [M, D, S/patch, S/patch], channels_last."""
        side = pixels.shape[2] // self.patch
        seen = pixels[:, :, : side * self.patch, : side * self.patch]
        image = seen.permute(0, 2, 3, 1).unflatten(2, (side, self.patch)).unflatten(1, (side, self.patch))
        # [M, side, side, patch·patch·3]
        patches = image.transpose(2, 3).flatten(3)
        return torch.nn.functional.linear(patches, self.weight, self.bias).permute(0, 3, 1, 2)


def for_device(tower: ViTFeatures) -> ViTFeatures:
    """Return a tower that computes the same, up to rounding; its other weights are shared, and it stays as it is."""
    shared = {id(tensor): tensor for tensor in (*tower.parameters(), *tower.buffers())}
    placed = copy.deepcopy(tower, shared)
    for module in list(placed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QuickGELU):
                setattr(module, name, OnePassQuickGELU())
    if isinstance(placed.conv1, nn.Conv2d):
        placed.conv1 = PatchProduct(placed.conv1)
    return placed
