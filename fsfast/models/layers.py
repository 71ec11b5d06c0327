"""What the encoder and the mapper share: self-attention over flattened tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention; computes and names its weights as nn.MultiheadAttention does.

    Tokens stay flattened to [M·L, D] around it: two-dimensional products export as Gemm nodes, which read
    weights in torch's own layout, so that ONNX and torch can share one weights file.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, length: int) -> Tensor:
        """[M·L, D] with L = length → [M·L, D]."""
        dim = x.shape[1]
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # [M, 3·heads, L, D/heads]
        qkv = qkv.reshape(-1, length, 3 * self.heads, dim // self.heads).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).reshape(-1, dim))
