"""Where published checkpoints keep the weights of a CLIP image tower."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

OPEN_CLIP = "open_clip"
TRANSFORMERS = "transformers"

# Three of them make a tower; a text tower has at most one under any prefix.
_SIGNS = {
    OPEN_CLIP: ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight", "ln_post.weight"),
    TRANSFORMERS: (
        "embeddings.class_embedding",
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
        "pre_layrnorm.weight",
        "post_layernorm.weight",
    ),
}
_ENOUGH_SIGNS = 3

# transformers' names; "pre_layrnorm" is spelled so there.
_RENAMED = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
# A higher number would only cost time: no such tower is built.
_BLOCK_THERE = {
    OPEN_CLIP: r"transformer\.resblocks\.(\d{1,3})\.",
    TRANSFORMERS: r"encoder\.layers\.(\d{1,3})\.",
}

# What stands beside the tower in whole models and is not read. Anything else could change what the tower computes.
_BESIDE = (
    # OpenAI's and open_clip's text tower.
    *("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "text"),
    *("logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"),
    # transformers' CLIPModel.
    "text_model",
    # LLaVA, as transformers and as its authors save it.
    *("language_model", "multi_modal_projector", "mm_projector", "image_newline"),
    *("lm_head", "embed_tokens", "layers", "norm"),
    # OpenFlamingo.
    *("perceiver", "lang_encoder"),
)
# Wrappers of a whole model: DataParallel, torch.compile, LLaVA.
_AROUND = re.compile(r"^((module|_orig_mod|model)\.)+")
# Saved by OpenAI's own files and by no others; their networks use QuickGELU.
_OPENAI = {"input_resolution", "context_length", "vocab_size"}


@dataclass(frozen=True)
class Source:
    """Where one weight of a module comes from.

    Attributes:
        names: tensors of the checkpoint, joined along axis 0 if there are several.
        transposed: whether it is stored the other way round.
    """

    names: tuple[str, ...]
    transposed: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each stored tensor for a weight of this shape."""
        if self.transposed:
            return shape[::-1]
        return (shape[0] // len(self.names), *shape[1:]) if len(self.names) > 1 else shape


@dataclass(frozen=True)
class Tower:
    """An image tower in a checkpoint.

    Attributes:
        layout: "open_clip" or "transformers".
        prefix: of the tower's names, "" or ending with a dot.
        projection: whether the checkpoint has, or should have, the projection to the pooled output.
        openai: whether it is a file of OpenAI's.
    """

    layout: str
    prefix: str
    projection: bool
    openai: bool

    def source(self, weight: str) -> Source:
        """Where a weight of VisionTransformer is, given by its name there."""
        if self.layout == OPEN_CLIP:
            return Source((self.prefix + weight,))
        if weight == "proj":
            return Source((self._projection_name,), transposed=True)
        block = _BLOCK.fullmatch(weight)
        inside = block[2] if block else weight
        around = f"{self.prefix}encoder.layers.{block[1]}." if block else self.prefix
        if inside.startswith("attn.in_proj_"):
            kind = inside.removeprefix("attn.in_proj_")
            return Source(tuple(f"{around}self_attn.{part}_proj.{kind}" for part in "qkv"))
        stem, dot, kind = inside.rpartition(".")
        renamed = _RENAMED.get(inside) or f"{_RENAMED.get(stem, stem)}{dot}{kind}"
        return Source((around + renamed,))

    def blocks(self, names: Iterable[str]) -> int:
        """One more than the highest index of a block."""
        pattern = re.compile(re.escape(self.prefix) + _BLOCK_THERE[self.layout])
        return 1 + max((int(match[1]) for match in map(pattern.match, names) if match), default=-1)

    def concerns(self, name: str) -> bool:
        """Whether a tensor belongs to the tower, or nobody knows to what."""
        if self.layout == TRANSFORMERS and name == f"{self.prefix}embeddings.position_ids":
            # 0, 1, 2, …: transformers saved this buffer up to 4.30.
            return False
        return name.startswith(self.prefix) or _root(name) not in _BESIDE

    @property
    def _projection_name(self) -> str:
        return self.prefix.removesuffix("vision_model.") + "visual_projection.weight"


def find_towers(names: AbstractSet[str]) -> list[Tower]:
    """Return the image towers in a checkpoint, by the names of its tensors."""
    towers = []
    for layout, signs in _SIGNS.items():
        seen: dict[str, int] = {}
        for name in names:
            for sign in signs:
                if name == sign or name.endswith(f".{sign}"):
                    prefix = name.removesuffix(sign)
                    seen[prefix] = seen.get(prefix, 0) + 1
        for prefix in sorted(prefix for prefix, count in seen.items() if count >= _ENOUGH_SIGNS):
            towers.append(_tower(layout, prefix, names))
    return towers


def _tower(layout: str, prefix: str, names: AbstractSet[str]) -> Tower:
    beside = {_root(name) for name in names if not name.startswith(prefix) or not prefix}
    tower = Tower(layout, prefix, True, beside >= _OPENAI)
    if layout == OPEN_CLIP or tower._projection_name in names or "text_model" in beside:
        return tower
    # CLIPVisionModel and LLaVA end with the tokens.
    return Tower(layout, prefix, False, tower.openai)


def _root(name: str) -> str:
    return _AROUND.sub("", name).split(".")[0]
