"""What the encoder and the mapper share: self-attention over flattened tokens; and rotary positions for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Positions of patch tokens as rotations of queries and keys (Su et al. 2021), along both axes of the image.

    Halves of the channels are rotated against each other, the first half of each by the row, the second by the column.
    The angles' cosines and sines are buffers of the state dict: an engine holds them as numbers, not as a formula.

    Args:
        places: [L, 2] float64, row and column of each patch; times the highest frequency they are its angles.
        prefix: tokens before the patches, which are not rotated.
        channels: of one head, a multiple of 4.
        theta: base of the frequencies.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, places: Tensor, prefix: int, channels: int, theta: float) -> None:
        super().__init__()
        frequencies = theta ** -torch.arange(0, 1, 4 / channels, dtype=torch.float64)
        # [L, channels / 2]
        angles = (places[:, :, None] * frequencies).flatten(1)
        angles = torch.cat([angles.new_zeros(prefix, channels // 2), angles])
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], dim=1).float())
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], dim=1).float())

    def forward(self, x: Tensor) -> Tensor:
        """[M, heads, L, channels] → rotated, the same shape."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([second, first], dim=-1) * self.sin


class SelfAttention(nn.Module):
    """Multi-head self-attention; computes and names its weights as nn.MultiheadAttention does.

    Tokens stay flattened to [M·L, D] around it: two-dimensional products export as Gemm nodes, which read
    weights in torch's own layout, so that ONNX and torch can share one weights file.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, out_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim)) if bias else None
        self.out_proj = nn.Linear(dim, dim, bias=out_bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if out_bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, x: Tensor, length: int, rotary: RotaryEmbedding | None = None, window: int | None = None
    ) -> Tensor:
        """[M·L, D] with L = length → [M·L, D].

        Args:
            x: tokens.
            length: of one image.
            rotary: applied to queries and keys.
            window: tokens that see each other, in their order; None: all of an image do.
        """
        dim = x.shape[1]
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # [M, 3·heads, L, D/heads]
        qkv = qkv.reshape(-1, length, 3 * self.heads, dim // self.heads).transpose(1, 2)
        if rotary is None:
            q, k, v = qkv.chunk(3, dim=1)
        else:
            qk, v = qkv.split([2 * self.heads, self.heads], dim=1)
            q, k = rotary(qk).chunk(2, dim=1)
        if window is not None:
            # Windows are heads of their own: [M, heads·L/window, window, D/heads].
            q, k, v = (part.unflatten(2, (-1, window)).flatten(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)
        if window is not None:
            attended = attended.unflatten(1, (self.heads, -1)).flatten(2, 3)
        return self.out_proj(attended.transpose(1, 2).reshape(-1, dim))
