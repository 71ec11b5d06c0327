"""Layers of vision transformers: blocks, their MLPs and normalisations, and pooling by attention."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsfast.models.layers import RotaryEmbedding, SelfAttention
from fsfast.models.vit_config import ViTConfig


class QuickGELU(nn.Module):
    """x·sigmoid(1.702·x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """[...] → [...]."""
        return x * torch.sigmoid(1.702 * x)


class GatedSiLU(nn.Module):
    """silu(gate)·up of the two halves of the channels (SwiGLU)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., 2·C] → [..., C]."""
        gate, up = x.chunk(2, dim=-1)
        return nn.functional.silu(gate) * up


class LayerScale(nn.Module):
    """A factor per channel (Touvron et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → the same shape."""
        return x * self.gamma


def norm_layer(config: ViTConfig) -> nn.Module:
    """[..., D] → [..., D], normalised."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.width, eps=config.norm_eps)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "quick_gelu": QuickGELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu_gated": GatedSiLU,
}


def _mlp(config: ViTConfig) -> nn.Module:
    """[..., D] → [..., D]."""
    width, hidden, bias = config.width, config.hidden, "mlp" in config.biases
    gated = config.activation == "silu_gated"
    return nn.Sequential(
        OrderedDict(
            c_fc=nn.Linear(width, 2 * hidden if gated else hidden, bias=bias),
            gelu=_ACTIVATIONS[config.activation](),
            c_proj=nn.Linear(hidden, width, bias=bias),
        )
    )


class Block(nn.Module):
    """Pre-norm attention and MLP with residual connections, on flattened tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.ln_1 = norm_layer(config)
        self.attn = SelfAttention(
            config.width,
            config.heads,
            bias=not {"q", "k", "v"}.isdisjoint(config.biases),
            out_bias="o" in config.biases,
        )
        self.ln_2 = norm_layer(config)
        self.mlp = _mlp(config)
        self.ls_1, self.ls_2 = (
            LayerScale(config.width) if config.layer_scale else nn.Identity() for _ in range(2)
        )

    def forward(
        self, x: Tensor, length: int, rotary: RotaryEmbedding | None = None, window: int | None = None
    ) -> Tensor:
        """[M·L, D] → [M·L, D]; see SelfAttention."""
        x = x + self.ls_1(self.attn(self.ln_1(x), length, rotary, window))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class AttentionPool(nn.Module):
    """Attention of one learned query over all tokens, then an MLP with a residual connection (SigLIP's MAP head).

    Weights are named as in timm's AttentionPoolLatent, but for the MLP's, which are as in a block.

    Args:
        config: of the tower.
        folded: the query is a weight by itself, instead of a projection of one: it is the same for every image.
    """

    def __init__(self, config: ViTConfig, *, folded: bool) -> None:
        super().__init__()
        width = config.width
        self.heads = config.pool_heads or config.heads
        self.folded = folded
        if folded:
            self.query = nn.Parameter(torch.zeros(1, self.heads, 1, width // self.heads))
        else:
            self.latent = nn.Parameter(width**-0.5 * torch.randn(width))
            self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = norm_layer(config)
        self.mlp = _mlp(config)

    def projected_query(self) -> Tensor:
        """The query, [1, heads, 1, D/heads]; where it is not folded."""
        return self.q(self.latent).reshape(1, self.heads, 1, -1)

    def forward(self, x: Tensor) -> Tensor:
        """[M, L, D] → [M, 1, D]."""
        rows, length, dim = x.shape
        kv = self.kv(x.flatten(0, 1)).reshape(-1, length, 2 * self.heads, dim // self.heads)
        # [M, heads, L, D/heads]
        k, v = kv.transpose(1, 2).chunk(2, dim=1)
        q = (self.query if self.folded else self.projected_query()).expand(rows, -1, -1, -1)
        pooled = self.proj(nn.functional.scaled_dot_product_attention(q, k, v).reshape(-1, dim))
        return (pooled + self.mlp(self.norm(pooled)))[:, None]


class Merger(nn.Module):
    """An MLP that makes one token of a square of them (Qwen-VL).

    Args:
        config: of the tower.
        tap: whether tokens are normalised here, a square at once, as in DeepStack; else they come normalised.
    """

    def __init__(self, config: ViTConfig, *, tap: bool) -> None:
        super().__init__()
        self.merged = config.width * config.merge**2
        if tap:
            self.norm = nn.LayerNorm(self.merged, eps=config.norm_eps)
        self.tap = tap
        self.c_fc = nn.Linear(self.merged, self.merged)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(self.merged, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[M·L, D], the tokens of a square one after another → [M·L/merge², embed_dim]."""
        x = x.reshape(-1, self.merged)
        return self.c_proj(self.gelu(self.c_fc(self.norm(x) if self.tap else x)))


def into_squares(x: Tensor, side: int, inner: int) -> Tensor:
    """[N, side², D], row by row → [N·(side/inner)², inner², D]: squares row by row, and so the tokens in each."""
    outer, dim = side // inner, x.shape[-1]
    return x.reshape(-1, outer, inner, outer, inner, dim).transpose(2, 3).reshape(-1, inner * inner, dim)


def out_of_squares(x: Tensor, side: int, inner: int) -> Tensor:
    """The inverse of `into_squares`."""
    outer, dim = side // inner, x.shape[-1]
    return x.reshape(-1, outer, outer, inner, inner, dim).transpose(2, 3).reshape(-1, side * side, dim)
