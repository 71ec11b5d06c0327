"""Vision transformers with open_clip's names of weights and explicit outputs."""

import math
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn

from fsfast.models.layers import RotaryEmbedding
from fsfast.models.vit_config import Output, ViTConfig
from fsfast.models.vit_layers import AttentionPool, Block, Merger, into_squares, norm_layer, out_of_squares


class _Transformer(nn.Module):
    """A list of blocks, under open_clip's name."""

    def __init__(self, config: ViTConfig, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(config) for _ in range(layers)])


def _patch_embedding(config: ViTConfig) -> nn.Module:
    """[M, 3, S, S] → [M, D, S/patch, S/patch]."""
    if not config.stem:
        return nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias="patch" in config.biases)
    layers: list[nn.Module] = []
    for before, after in zip((3, *config.stem), (*config.stem, config.width), strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class _Tower(nn.Module):
    """Patch embedding, `layers` blocks, and as much of the head as is asked for."""

    def __init__(
        self,
        config: ViTConfig,
        layers: int,
        *,
        ln_post: bool,
        pooled: bool,
        merged: bool,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        std = width**-0.5
        if config.class_token:
            self.class_embedding = nn.Parameter(std * torch.randn(width))
        if config.learned_positions:
            positions = config.patches + config.class_token
            self.positional_embedding = nn.Parameter(std * torch.randn(positions, width))
        if config.registers:
            self.register_tokens = nn.Parameter(std * torch.randn(config.registers, width))
        self.conv1 = _patch_embedding(config)
        if config.pre_norm:
            self.ln_pre = norm_layer(config)
        self.rotary = rotary_embedding(config)
        self.transformer = _Transformer(config, layers)
        if ln_post:
            self.ln_post = norm_layer(config)
        if pooled and config.pooling == "map":
            self.attn_pool = AttentionPool(config, folded=folded)
        if pooled and config.projection:
            self.proj = nn.Parameter(std * torch.randn(width, config.embed_dim))
        if merged:
            self.merger = Merger(config, tap=False)
            self.deepstack = nn.ModuleList([Merger(config, tap=True) for _ in config.taps])

    def _run(self, pixels: Tensor, output: Output, ln_post: bool) -> Tensor:
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(
                f"wanted pixels as [M, 3, {size}, {size}], got {list(pixels.shape)}; "
                "resize the images to the encoder's size"
            )
        config = self.config
        length = config.prefix + config.patches
        x = _in_order(config, self._embedded(pixels)).flatten(0, 1)
        taps: list[Tensor] = []
        blocks = config.layers - (output == "penultimate")
        for i, block in enumerate(self.transformer.resblocks[:blocks]):
            window = config.window**2 if config.window and i not in config.full_layers else None
            x = block(x, length, self.rotary, window)
            if output == "merged" and i in config.taps:
                taps.append(self.deepstack[len(taps)](x))
        if output == "merged":
            tokens = [self.merger(self.ln_post(x)), *taps]
            return torch.cat([_by_rows(config, each, config.merge) for each in tokens], dim=1)
        x = x.unflatten(0, (-1, length))
        if output == "pooled":
            return self._pooled(x)
        x = _by_rows(config, x) if config.squares else x[:, config.prefix :]
        return self.ln_post(x) if ln_post else x

    def _embedded(self, pixels: Tensor) -> Tensor:
        """[M, 3, S, S] → [M, prefix+L, D]: what the first block gets."""
        config, rows = self.config, pixels.shape[0]
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        if config.class_token:
            x = torch.cat([self.class_embedding.expand(rows, 1, -1), x], dim=1)
        if config.learned_positions:
            x = x + self.positional_embedding
        if config.registers:
            registers = self.register_tokens.expand(rows, -1, -1)
            x = torch.cat([x[:, : config.class_token], registers, x[:, config.class_token :]], dim=1)
        return self.ln_pre(x) if config.pre_norm else x

    def _pooled(self, x: Tensor) -> Tensor:
        """[M, prefix+L, D] → [M, 1, embed_dim]."""
        config = self.config
        if config.pooling == "cls":
            x = self.ln_post(x[:, :1])
        elif config.pooling == "mean":
            x = self.ln_post(x[:, config.prefix :].mean(dim=1, keepdim=True))
        else:
            x = self.attn_pool(self.ln_post(x))
        return x @ self.proj if config.projection else x


class VisionTransformer(_Tower):
    """An image tower, for training and for published weights; `features` makes what an engine runs.

    With CLIP's flags equal to `VisionTransformer` of github.com/mlfoundations/open_clip, without patch dropout; with
    the same names of weights. A stem's convolutions are `conv1.0`, `conv1.2`, …

    Args:
        config: one of VIT_B_16, VIT_L_14, VIT_L_14_336, VIT_TINY, or another.
    """

    def __init__(self, config: ViTConfig) -> None:
        pooled, merged = config.pooling != "none", config.merge > 1
        super().__init__(config, config.layers, ln_post=config.final_norm, pooled=pooled, merged=merged)

    def forward(self, pixels: Tensor, output: Output = "pooled", ln_post: bool | None = None) -> Tensor:
        """Encode normalised images.

        Args:
            pixels: [M, 3, S, S] float with S = config.image_size, normalised as its weights want it.
            output: "penultimate": patch tokens before the last block, not normalised (LLaVA);
                "tokens": patch tokens after it; "pooled": class token → ln_post → proj, or as
                config.pooling says; "merged": what config.merge makes of squares of patches, row by row, and after
                these the same of each of config.taps.
            ln_post: for "tokens" whether ln_post is applied, without a default: open_clip ≤ 2.22 leaves it
                out (so OpenFlamingo and RobustVLM were trained), ≥ 2.23 applies it. Fixed for the others.

        Returns:
            [M, L, D] as config.feature_shape says.

        Raises:
            ValueError: another shape, an unknown output, or ln_post missing or contradicting the output.
        """
        return self._run(pixels, output, _applies_ln_post(self.config, output, ln_post))

    def features(self, output: Output, ln_post: bool | None = None) -> "ViTFeatures":
        """A copy for one output, with the weights that it needs and no others.

        Args:
            output: see `forward`.
            ln_post: see `forward`.

        Returns:
            a ViTFeatures in evaluation mode that shares no memory with this one; same dtype and device.

        Raises:
            ValueError: an unknown output, or ln_post missing or contradicting it.
        """
        with torch.device("meta"):
            features = ViTFeatures(self.config, output, ln_post)
        weights = self.state_dict()
        if self.config.pooling == "map":
            weights["attn_pool.query"] = self.attn_pool.projected_query()
        features.load_state_dict(
            {name: weights[name].detach().clone() for name in features.state_dict()}, assign=True
        )
        return features.eval().requires_grad_(False)


class ViTFeatures(_Tower):
    """One output of a vision transformer: what an engine runs, built by `VisionTransformer.features`.

    Weights keep their names, but for the query of a pooling by attention, which is folded; the last block, ln_post,
    proj, attn_pool and mergers are there only where the output needs them.

    Args:
        config: the configuration of the VisionTransformer.
        output: "penultimate", "tokens", "pooled" or "merged"; see `VisionTransformer.forward`.
        ln_post: for "tokens" whether ln_post is applied.

    Raises:
        ValueError: an unknown output, or ln_post missing or contradicting it.
    """

    def __init__(self, config: ViTConfig, output: Output, ln_post: bool | None = None) -> None:
        applies = _applies_ln_post(config, output, ln_post)
        super().__init__(
            config,
            config.layers - (output == "penultimate"),
            ln_post=applies,
            pooled=output == "pooled",
            merged=output == "merged",
            folded=True,
        )
        self.output: Output = output
        self.applies_ln_post = applies

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            pixels: [M, 3, S, S] float with S = config.image_size, normalised as its weights want it.

        Returns:
            [M, L, D] as config.feature_shape says.

        Raises:
            ValueError: pixels have another shape.
        """
        return self._run(pixels, self.output, self.applies_ln_post)


def rotary_embedding(config: ViTConfig) -> RotaryEmbedding | None:
    """Return the rotary positions of a tower, None where it has none."""
    if config.rope_theta is None:
        return None
    side = config.image_size // config.patch
    along = torch.arange(side, dtype=torch.float64)
    if config.rope_grid == "centres":
        along = 2 * math.pi * (2 * (along + 0.5) / side - 1)
    elif config.rope_grid == "from_1":
        along = along + 1
    places = torch.stack(torch.meshgrid(along, along, indexing="ij"), dim=-1).reshape(1, -1, 2)
    places = _in_order(config, places)[0]
    return RotaryEmbedding(places, config.prefix, config.width // config.heads, config.rope_theta)


def _in_order(config: ViTConfig, x: Tensor) -> Tensor:
    """[M, L, D], row by row → the same tokens as blocks get them: square by square."""
    side, length = config.image_size // config.patch, x.shape[1]
    for square in config.squares:
        x, side = into_squares(x, side, square), square
    return x.reshape(-1, length, x.shape[-1]) if config.squares else x


def _by_rows(config: ViTConfig, x: Tensor, merged: int = 1) -> Tensor:
    """[…, D] as blocks have them → [M, L, D], row by row.

    Args:
        config: of the tower.
        x: tokens of M images, or what was made of them.
        merged: patches along the side of the square that a token stands for.
    """
    sides = [side // merged for side in (config.image_size // config.patch, *config.squares) if side > merged]
    for side, square in reversed(list(pairwise(sides))):
        x = out_of_squares(x, side, square)
    return x.reshape(-1, sides[0] ** 2, x.shape[-1])


def _applies_ln_post(config: ViTConfig, output: Output, ln_post: bool | None) -> bool:
    if output not in get_args(Output):
        raise ValueError(f"wanted output to be one of {', '.join(get_args(Output))}, got {output!r}")
    if output == "pooled" and config.pooling == "none":
        raise ValueError("this tower has no pooled output (pooling='none'); choose tokens or penultimate")
    if output == "merged" and config.merge == 1:
        raise ValueError("this tower has no merger (merge=1); choose tokens or penultimate")
    if output == "tokens":
        if ln_post and not config.final_norm:
            raise ValueError("this tower has no normalisation after its blocks; say ln_post=False")
        if ln_post is None:
            raise ValueError(
                "output 'tokens' wants ln_post to be said: False for models trained with open_clip <= 2.22 "
                "(OpenFlamingo, RobustVLM), True for >= 2.23"
            )
        return ln_post
    fixed = output in ("pooled", "merged")
    if ln_post not in (None, fixed):
        raise ValueError(f"output {output!r} always means ln_post={fixed}, got {ln_post}; leave ln_post out")
    return fixed
