"""The layers of guided-diffusion's U-Net, with its names of weights."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Resample = Literal["up", "down"] | None


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a shift and scale by the time embedding, plus a skip connection."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        groups: int,
        time_dim: int | None,
        resample: Resample = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        if time_dim is not None:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * out_channels))
        # Index 2 is upstream's dropout, which has no weights and is not used; it keeps the others' names.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Identity(),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """[M, C, H, W] and [M, time_dim] (None if folded) → [M, C', H', W']."""
        norm, activation, _, conv = self.out_layers
        h = self.in_layers[2](self._resampled(self.in_layers[:2](x)))
        h = norm(h)
        if embedding is not None:
            scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip_connection(self._resampled(x)) + conv(activation(h))


class AttentionBlock(nn.Module):
    """Self-attention over all positions in the published checkpoint's order of channels: per head q, k, v."""

    def __init__(self, channels: int, groups: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C, H, W]."""
        height, width = x.shape[2:]
        flat = x.flatten(2)
        # [M, heads, positions, 3·head_channels]
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.heads, -1)).transpose(2, 3)
        q, k, v = qkv.chunk(3, dim=-1)
        # Softmax over float32 sums in every kernel of torch, whatever the dtype of q.
        attended = F.scaled_dot_product_attention(q, k, v)
        out = flat + self.proj_out(attended.transpose(2, 3).flatten(1, 2))
        return out.unflatten(2, (height, width))


class Downsample(nn.Module):
    """Halve height and width by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C, H/2, W/2]."""
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by repetition, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.ModuleList):
    """Layers in a row, of which residual blocks alone see the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """[M, C, H, W] and [M, time_dim] (None if folded) → [M, C', H', W']."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


def zeroed(conv: nn.Module) -> nn.Module:
    """The convolution with its weights set to zero: each block starts as the identity, as in the original."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
