"""Text towers of CLIP and SigLIP, which make directions of classes' names; nothing serves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.models.vit_layers import QuickGELU

TextKind = Literal["clip", "siglip"]
# Functions where there are some: of a module nn.GELU the layer takes the exact one for its fast path, whatever its
# approximation.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": QuickGELU(),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True)
class TextConfig:
    """The shape of a text tower.

    Args:
        kind: "clip": a token sees those before it, and the projection has no bias; "siglip": it sees all, and the
            projection has one.
        vocabulary: tokens that there are.
        context: tokens that a text may have.
        width: channels of a token.
        layers: blocks.
        heads: attention heads per block.
        hidden: channels of a block's MLP.
        embed_dim: channels of the output.
        activation: of the MLPs, one of ACTIVATIONS.
        norm_eps: added to the variance in every normalisation.

    Raises:
        ValueError: sizes are not positive, width does not divide into heads, an activation that is not known.
    """

    kind: TextKind
    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    hidden: int
    embed_dim: int
    activation: str
    norm_eps: float

    def __post_init__(self) -> None:
        sizes = (
            self.vocabulary,
            self.context,
            self.width,
            self.layers,
            self.heads,
            self.hidden,
            self.embed_dim,
        )
        if min(sizes) < 1 or self.width % self.heads:
            raise ValueError(f"wanted sizes of at least 1, and a width that divides into heads, got {self}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"wanted activation as one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")


class TextTower(nn.Module):
    """Texts as tokens → their directions, before they are normalised.

    Equal to the text towers of open_clip's and transformers' CLIP, and of transformers' SigLIP.

    Args:
        config: of the tower.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.heads,
                config.hidden,
                dropout=0.0,
                activation=ACTIVATIONS[config.activation],
                layer_norm_eps=config.norm_eps,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.ln_final = nn.LayerNorm(width, eps=config.norm_eps)
        self.projection = nn.Linear(width, config.embed_dim, bias=config.kind == "siglip")

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: [B, L] int64, L ≤ context.
            ends: [B] int64, the place of the token that stands for each text.

        Returns:
            [B, embed_dim].
        """
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.config.kind == "clip" else None
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=mask is not None)
        return self.projection(self.ln_final(x[torch.arange(len(x)), ends]))
