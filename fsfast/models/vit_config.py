"""The configuration of a vision transformer: one family, whose members differ in flags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu_gated"]
Norm = Literal["layer", "rms"]
Pooling = Literal["cls", "mean", "map", "none"]
RopeGrid = Literal["centres", "from_0", "from_1"]
Output = Literal["penultimate", "tokens", "pooled", "merged"]
# Where a layer may have a bias: the three parts of attention's input, its output, the MLP, the patch embedding.
BIASES = ("q", "k", "v", "o", "mlp", "patch")
# What engines have said of every tower since the first, with quick_gelu before the last; the rest is said where it is
# not CLIP's.
_ALWAYS_SAID = (
    "width",
    "layers",
    "heads",
    "patch",
    "image_size",
    "embed_dim",
    "mlp_ratio",
    "quick_gelu",
    "stem",
)


@dataclass(frozen=True, repr=False)
class ViTConfig:
    """The shape of a vision transformer; the defaults of what the first six fields leave open are CLIP's.

    Args:
        width: channels D of a token.
        layers: blocks.
        heads: attention heads per block.
        patch: height and width of a patch in pixels.
        image_size: height and width of the input in pixels; what is left over beyond whole patches is not seen.
        embed_dim: channels of the pooled output.
        mlp_ratio: hidden channels of a block's MLP over width.
        activation: of the MLPs. "quick_gelu": x·sigmoid(1.702·x), which OpenAI's weights were trained with; "gelu":
            exact; "gelu_tanh": its approximation by a tanh (SigLIP); "silu_gated": SwiGLU, silu(gate)·up.
        stem: channels between 3×3 convolutions of stride 2 that replace the patch embedding (Xiao et al.
            2021, "Early convolutions help transformers see better"); empty for CLIP's one convolution.
        class_token: whether a class token stands before the patch tokens.
        registers: register tokens after the class token (Darcet et al. 2023); they have no positions.
        pre_norm: whether tokens are normalised before the first block.
        norm: "layer" (LayerNorm) or "rms" (RMSNorm).
        norm_eps: added to the variance in every normalisation.
        biases: which layers have one, of q, k, v, o, mlp, patch.
        learned_positions: whether a learned embedding is added to class and patch tokens.
        rope_theta: base of the rotary embedding of patch tokens; None without.
        rope_grid: where patches lie for it, along each axis. "centres": at 2π times their centres in [−1, 1] (DINOv3);
            "from_0": at 0, 1, 2, … (Qwen-VL); "from_1": at 1, 2, 3, …, the class token at 0 (Perception Encoder).
        layer_scale: whether what a block adds is scaled per channel.
        final_norm: whether there is a normalisation after the last block, ln_post.
        pooling: what the pooled output is made of: "cls", the class token; "mean", of the patch tokens, normalised
            afterwards (CLIPA); "map", attention of a learned query over all tokens (SigLIP); "none".
        pool_heads: attention heads of a pooling "map"; 0: as many as in a block.
        projection: whether the pooled output is projected to embed_dim channels.
        merge: patches along the side of a square that an MLP after ln_post makes one token of embed_dim channels
            (Qwen-VL), the output "merged"; 1: there is none.
        taps: blocks after which another such MLP makes tokens, too (DeepStack, Qwen3-VL); they are part of "merged".
        window: patches along the side of a square that attention sees, in all blocks but `full_layers`; 0: everything.
        full_layers: blocks whose attention sees the whole image in spite of `window`.

    Raises:
        ValueError: sizes are not positive, width does not divide into heads, a stem makes other patches, a word is not
            known, or two fields contradict each other.
    """

    width: int
    layers: int
    heads: int
    patch: int
    image_size: int
    embed_dim: int
    mlp_ratio: float = 4
    activation: Activation = "gelu"
    stem: tuple[int, ...] = ()
    class_token: bool = True
    registers: int = 0
    pre_norm: bool = True
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    biases: tuple[str, ...] = ("q", "k", "v", "o", "mlp")
    learned_positions: bool = True
    rope_theta: float | None = None
    rope_grid: RopeGrid = "centres"
    layer_scale: bool = False
    final_norm: bool = True
    pooling: Pooling = "cls"
    pool_heads: int = 0
    projection: bool = True
    merge: int = 1
    taps: tuple[int, ...] = ()
    window: int = 0
    full_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.mlp_ratio < 1000:
            raise ValueError(f"wanted mlp_ratio in (0, 1000), got {self.mlp_ratio}")
        if min(self.width, self.layers, self.heads, self.patch, self.embed_dim, self.hidden) < 1:
            raise ValueError(f"wanted all sizes to be at least 1, got {self}")
        if self.width % self.heads:
            raise ValueError(f"wanted width to be a multiple of heads={self.heads}, got {self.width}")
        if self.image_size < self.patch:
            raise ValueError(f"wanted image_size to be at least patch={self.patch}, got {self.image_size}")
        made = 2 ** (len(self.stem) + 1)
        if self.stem and (min(self.stem) < 1 or self.patch != made or self.image_size % made):
            raise ValueError(
                f"wanted patch={made} and a multiple as image_size, as a stem of {len(self.stem) + 1} halvings makes "
                f"it, got {self}"
            )
        self._check_words()
        self._check_together()

    def _check_words(self) -> None:
        for name, known in (
            *(("activation", Activation), ("norm", Norm), ("pooling", Pooling)),
            ("rope_grid", RopeGrid),
        ):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"wanted {name} as one of {', '.join(get_args(known))}, got {getattr(self, name)!r}"
                )
        if tuple(part for part in BIASES if part in self.biases) != tuple(self.biases):
            raise ValueError(f"wanted biases among {', '.join(BIASES)}, in this order, got {self.biases}")
        if self.registers < 0 or not 0 < self.norm_eps < 1:
            raise ValueError(
                f"wanted registers of at least 0 and norm_eps in (0, 1), got {self.registers}, {self.norm_eps}"
            )

    def _check_together(self) -> None:
        if self.pooling == "cls" and not self.class_token:
            raise ValueError("pooling='cls' wants class_token=True; choose another pooling")
        if self.pooling != "none" and not self.final_norm:
            raise ValueError(f"pooling={self.pooling!r} wants final_norm=True; choose pooling='none'")
        if not self.projection and self.embed_dim != self.width and self.merge == 1:
            raise ValueError(
                f"without a projection, wanted embed_dim={self.width} as width, got {self.embed_dim}"
            )
        if self.rope_theta is not None and (self.rope_theta <= 0 or self.width // self.heads % 4):
            raise ValueError(
                f"wanted rope_theta above 0 and heads of a multiple of 4 channels, got {self.rope_theta} and "
                f"{self.width // self.heads}"
            )

        if self.pool_heads < 0 or (self.pool_heads and self.width % self.pool_heads):
            raise ValueError(f"wanted pool_heads to divide width={self.width}, got {self.pool_heads}")
        self._check_squares()

    def _check_squares(self) -> None:
        if self.merge < 1 or self.window < 0:
            raise ValueError(
                f"wanted merge of at least 1 and window of at least 0, got {self.merge}, {self.window}"
            )
        if self.merge > 1 and (self.pooling != "none" or self.projection or not self.final_norm):
            raise ValueError(
                "merge wants pooling='none', projection=False and final_norm=True: ln_post is the merger's"
            )
        if self.squares and self.prefix:
            raise ValueError("merge and window want class_token=False and registers=0")
        side = self.image_size // self.patch
        for square in self.squares:
            if side % square:
                raise ValueError(
                    f"wanted image_size as a multiple of {self.patch * math.lcm(*self.squares)} pixels, of which "
                    f"merge={self.merge} and window={self.window} make whole squares, got {self.image_size}"
                )
            side = square
        for name, wants, there in (
            ("taps", "merge", self.merge > 1),
            ("full_layers", "window", self.window > 0),
        ):
            found = getattr(self, name)
            if found and not there:
                raise ValueError(f"{name} wants {wants} to be set, got {found}")
            if list(found) != sorted(set(found)) or not set(found) <= set(range(self.layers)):
                raise ValueError(f"wanted {name} as indices of {self.layers} blocks, ascending, got {found}")

    def __repr__(self) -> str:
        said = [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"ViTConfig({', '.join(said)})"

    @property
    def hidden(self) -> int:
        """Hidden channels of a block's MLP."""
        return round(self.width * self.mlp_ratio)

    @property
    def patches(self) -> int:
        """Patch tokens of one image, without class token and registers."""
        return (self.image_size // self.patch) ** 2

    @property
    def squares(self) -> tuple[int, ...]:
        """Sides in patches of the squares that the tokens are ordered by, from the largest."""
        return tuple(square for square in (self.window, self.merge) if square > 1)

    def feature_shape(self, output: Output) -> tuple[int, int]:
        """[L, D] of an output."""
        if output == "pooled":
            return 1, self.embed_dim
        if output == "merged":
            return self.patches // self.merge**2 * (1 + len(self.taps)), self.embed_dim
        return self.patches, self.width

    @property
    def prefix(self) -> int:
        """Tokens before the patch tokens: class token and registers."""
        return int(self.class_token) + self.registers

    def to_record(self) -> dict[str, Any]:
        """The fields for JSON. Of a CLIP they are those that engines have always had, so that its digest stays."""
        said = asdict(self) | {"quick_gelu": self.activation == "quick_gelu"}
        if said["quick_gelu"]:
            del said["activation"]
        defaults = {field.name: field.default for field in fields(self)}
        record = {name: said.pop(name) for name in _ALWAYS_SAID}
        return record | {name: value for name, value in said.items() if value != defaults[name]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ViTConfig:
        """Read what `to_record` wrote, in this version or an earlier one: what is not said is CLIP's.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: as the constructor.
        """
        # JSON has lists where the configuration has tuples.
        said: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k != "quick_gelu"
        }
        if record.get("quick_gelu"):
            said["activation"] = "quick_gelu"
        return cls(**said)


# OpenAI's CLIP towers; FARE and TeCoA start from ViT-L/14. LAION's weights
# want dataclasses.replace(..., activation="gelu").
VIT_B_32 = ViTConfig(768, 12, 12, 32, 224, 512, activation="quick_gelu")
VIT_B_16 = ViTConfig(768, 12, 12, 16, 224, 512, activation="quick_gelu")
VIT_L_14 = ViTConfig(1024, 24, 16, 14, 224, 768, activation="quick_gelu")
VIT_L_14_336 = ViTConfig(1024, 24, 16, 14, 336, 768, activation="quick_gelu")
# For the built-in engine.
VIT_TINY = ViTConfig(128, 4, 2, 8, 64, 128, mlp_ratio=2, stem=(32, 64))
