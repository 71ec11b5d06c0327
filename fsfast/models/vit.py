"""Vision transformers with open_clip's names of weights and explicit outputs."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fsfast.models.layers import SelfAttention

Output = Literal["penultimate", "tokens", "pooled"]


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a vision transformer.

    Args:
        width: channels D of a token.
        layers: blocks.
        heads: attention heads per block.
        patch: height and width of a patch in pixels.
        image_size: height and width of the input in pixels.
        embed_dim: channels of the pooled output.
        mlp_ratio: hidden channels of a block's MLP over width.
        quick_gelu: x·sigmoid(1.702·x), which OpenAI's weights were trained with, instead of the exact GELU.
        stem: channels between 3×3 convolutions of stride 2 that replace the patch embedding (Xiao et al.
            2021, "Early convolutions help transformers see better"); empty for CLIP's one convolution.

    Raises:
        ValueError: width does not divide into heads, image_size into patches, or a stem makes other patches.
    """

    width: int
    layers: int
    heads: int
    patch: int
    image_size: int
    embed_dim: int
    mlp_ratio: int = 4
    quick_gelu: bool = False
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.patch, self.embed_dim, self.mlp_ratio) < 1:
            raise ValueError(f"wanted all sizes to be at least 1, got {self}")
        if self.width % self.heads:
            raise ValueError(f"wanted width to be a multiple of heads={self.heads}, got {self.width}")
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ValueError(
                f"wanted image_size to be a multiple of patch={self.patch}, got {self.image_size}"
            )
        made = 2 ** (len(self.stem) + 1)
        if self.stem and (min(self.stem) < 1 or self.patch != made):
            raise ValueError(
                f"wanted patch={made}, as a stem of {len(self.stem) + 1} halvings makes it, got {self}"
            )

    @property
    def patches(self) -> int:
        """Patch tokens of one image, without the class token."""
        return (self.image_size // self.patch) ** 2


# OpenAI's CLIP towers; FARE and TeCoA start from ViT-L/14. LAION's weights
# want dataclasses.replace(..., quick_gelu=False).
VIT_B_16 = ViTConfig(768, 12, 12, 16, 224, 512, quick_gelu=True)
VIT_L_14 = ViTConfig(1024, 24, 16, 14, 224, 768, quick_gelu=True)
VIT_L_14_336 = ViTConfig(1024, 24, 16, 14, 336, 768, quick_gelu=True)
# For the built-in engine.
VIT_TINY = ViTConfig(128, 4, 2, 8, 64, 128, mlp_ratio=2, stem=(32, 64))


class QuickGELU(nn.Module):
    """x·sigmoid(1.702·x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """[...] → [...]."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm attention and MLP with residual connections, on flattened tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.width * config.mlp_ratio
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, config.heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, hidden),
                gelu=QuickGELU() if config.quick_gelu else nn.GELU(),
                c_proj=nn.Linear(hidden, width),
            )
        )

    def forward(self, x: Tensor, length: int) -> Tensor:
        """[M·L, D] with L = length → [M·L, D]."""
        x = x + self.attn(self.ln_1(x), length)
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    """A list of blocks, under open_clip's name."""

    def __init__(self, config: ViTConfig, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(config) for _ in range(layers)])


def _patch_embedding(config: ViTConfig) -> nn.Module:
    """[M, 3, S, S] → [M, D, S/patch, S/patch]."""
    if not config.stem:
        return nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
    layers: list[nn.Module] = []
    for before, after in zip((3, *config.stem), (*config.stem, config.width), strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class _Tower(nn.Module):
    """Patch embedding, `layers` blocks, and as much of the head as is asked for."""

    def __init__(self, config: ViTConfig, layers: int, ln_post: bool, proj: bool) -> None:
        super().__init__()
        self.config = config
        width = config.width
        std = width**-0.5
        self.class_embedding = nn.Parameter(std * torch.randn(width))
        self.positional_embedding = nn.Parameter(std * torch.randn(config.patches + 1, width))
        self.conv1 = _patch_embedding(config)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(config, layers)
        if ln_post:
            self.ln_post = nn.LayerNorm(width)
        if proj:
            self.proj = nn.Parameter(std * torch.randn(width, config.embed_dim))

    def _run(self, pixels: Tensor, output: Output, ln_post: bool) -> Tensor:
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(
                f"wanted pixels as [M, 3, {size}, {size}], got {list(pixels.shape)}; "
                "resize the images to the encoder's size"
            )
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(pixels.shape[0], 1, -1)
        # [M, 1+L, D]
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding
        length = self.config.patches + 1
        x = self.ln_pre(x).flatten(0, 1)
        blocks = self.config.layers - (output == "penultimate")
        for block in self.transformer.resblocks[:blocks]:
            x = block(x, length)
        x = x.unflatten(0, (-1, length))
        x = x[:, :1] if output == "pooled" else x[:, 1:]
        if ln_post:
            x = self.ln_post(x)
        return x @ self.proj if output == "pooled" else x


class VisionTransformer(_Tower):
    """CLIP's image tower, for training and for published weights; `features` makes what an engine runs.

    Equal to `VisionTransformer` of github.com/mlfoundations/open_clip with a class token and learned
    positions, without patch dropout; with the same names of weights. A stem's convolutions are
    `conv1.0`, `conv1.2`, …

    Args:
        config: one of VIT_B_16, VIT_L_14, VIT_L_14_336, VIT_TINY, or another.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, config.layers, ln_post=True, proj=True)

    def forward(self, pixels: Tensor, output: Output = "pooled", ln_post: bool | None = None) -> Tensor:
        """Encode normalised images.

        Args:
            pixels: [M, 3, S, S] float with S = config.image_size, normalised by CLIP's mean and std.
            output: "penultimate": patch tokens before the last block, not normalised (LLaVA);
                "tokens": patch tokens after it; "pooled": class token → ln_post → proj.
            ln_post: for "tokens" whether ln_post is applied, without a default: open_clip ≤ 2.22 leaves it
                out (so OpenFlamingo and RobustVLM were trained), ≥ 2.23 applies it. Fixed for the others.

        Returns:
            [M, L, D] with L = config.patches; for "pooled" [M, 1, embed_dim].

        Raises:
            ValueError: another shape, an unknown output, or ln_post missing or contradicting the output.
        """
        return self._run(pixels, output, _applies_ln_post(output, ln_post))

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
        features.load_state_dict(
            {name: weights[name].detach().clone() for name in features.state_dict()}, assign=True
        )
        return features.eval().requires_grad_(False)


class ViTFeatures(_Tower):
    """One output of a vision transformer: what an engine runs, built by `VisionTransformer.features`.

    Weights keep their names; the last block, ln_post and proj are there only where the output needs them.

    Args:
        config: the configuration of the VisionTransformer.
        output: "penultimate", "tokens" or "pooled"; see `VisionTransformer.forward`.
        ln_post: for "tokens" whether ln_post is applied.

    Raises:
        ValueError: an unknown output, or ln_post missing or contradicting it.
    """

    def __init__(self, config: ViTConfig, output: Output, ln_post: bool | None = None) -> None:
        applies = _applies_ln_post(output, ln_post)
        super().__init__(config, config.layers - (output == "penultimate"), applies, output == "pooled")
        self.output: Output = output
        self.applies_ln_post = applies

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            pixels: [M, 3, S, S] float with S = config.image_size, normalised by CLIP's mean and std.

        Returns:
            [M, L, D] with L = config.patches; for "pooled" [M, 1, embed_dim].

        Raises:
            ValueError: pixels have another shape.
        """
        return self._run(pixels, self.output, self.applies_ln_post)


def _applies_ln_post(output: Output, ln_post: bool | None) -> bool:
    if output not in get_args(Output):
        raise ValueError(f"wanted output to be one of {', '.join(get_args(Output))}, got {output!r}")
    if output == "tokens":
        if ln_post is None:
            raise ValueError(
                "output 'tokens' wants ln_post to be said: False for models trained with open_clip <= 2.22 "
                "(OpenFlamingo, RobustVLM), True for >= 2.23"
            )
        return ln_post
    fixed = output == "pooled"
    if ln_post not in (None, fixed):
        raise ValueError(f"output {output!r} always means ln_post={fixed}, got {ln_post}; leave ln_post out")
    return fixed
