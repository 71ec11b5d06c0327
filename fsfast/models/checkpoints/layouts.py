"""Where published checkpoints keep the weights of an image tower."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from fsfast.models.checkpoints.names import LAYOUTS, OPEN_CLIP, PERCEPTION, TRANSFORMERS, Layout

# Three of a layout's signs make a tower; a text tower has at most one under any prefix.
_ENOUGH_SIGNS = 3
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
# What stands beside the tower in whole models and is not read. Anything else could change what the tower computes.
_BESIDE = (
    # OpenAI's and open_clip's text tower.
    *("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "text"),
    *("logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"),
    # transformers' CLIPModel and SiglipModel.
    "text_model",
    # LLaVA, as transformers and as its authors save it; InternVL.
    *("language_model", "multi_modal_projector", "mm_projector", "image_newline", "mlp1"),
    *("lm_head", "embed_tokens", "layers", "norm"),
    # OpenFlamingo.
    *("perceiver", "lang_encoder"),
    # DINOv2 in training.
    *("dino_head", "ibot_head"),
)
# Wrappers of a whole model: DataParallel, torch.compile, LLaVA.
_AROUND = re.compile(r"^((module|_orig_mod|model)\.)+")
# Saved by OpenAI's own files and by no others; their networks use QuickGELU.
_OPENAI = {"input_resolution", "context_length", "vocab_size"}


@dataclass(frozen=True)
class Source:
    """Where one weight of a module comes from.

    Attributes:
        names: tensors of the checkpoint, joined along axis 0 if there are several; None: zeros, for a bias that the
            network does without.
        transposed: whether it is stored the other way round.
        leading: axes of 1 that stand before its own.
        thirds: begin and end of the part that is meant of a tensor of three equal parts along axis 0.
        frames: weights along axis 2 that are summed, for the same frame in the place of each; 0: there is no such axis.
        zeros: rows of zeros that the weight begins with, and that are not stored.
    """

    names: tuple[str | None, ...]
    transposed: bool = False
    leading: int = 0
    thirds: tuple[int, int] = (0, 3)
    frames: int = 0
    zeros: int = 0

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors of the checkpoint."""
        return tuple(name for name in self.names if name is not None)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each stored tensor for a weight of this shape."""
        if self.transposed:
            return shape[::-1]
        begin, end = self.thirds
        if (begin, end) != (0, 3):
            return (3 * shape[0] // (end - begin), *shape[1:])
        if self.frames:
            return (*shape[:2], self.frames, *shape[2:])
        own = (shape[0] // len(self.names), *shape[1:]) if len(self.names) > 1 else shape
        if self.zeros:
            own = (own[0] - self.zeros, *own[1:])
        return (1,) * self.leading + own


@dataclass(frozen=True)
class Tower:
    """An image tower in a checkpoint.

    Attributes:
        layout: whose names it has.
        prefix: of the tower's names, "" or ending with a dot.
        projection: whether the checkpoint has, or should have, the projection to the pooled output.
        openai: whether it is a file of OpenAI's.
        names: all tensors of the checkpoint.
    """

    layout: Layout
    prefix: str
    projection: bool
    openai: bool
    names: AbstractSet[str]

    @property
    def own(self) -> list[str]:
        """The names that stand under its prefix."""
        return [name for name in self.names if name.startswith(self.prefix)]

    @property
    def family(self) -> str:
        """In words."""
        layout = self.layout
        if layout.ungated and not self.gated:
            return layout.ungated
        return layout.family if self.has("class_embedding") else layout.classless or layout.family

    def source(self, weight: str) -> Source:
        """Where a weight of VisionTransformer is, given by its name there."""
        if weight == "proj" and self.layout.name == TRANSFORMERS:
            return Source((self._projection_name,), transposed=True)
        block = _BLOCK.fullmatch(weight)
        inside = block[2] if block else weight
        around = self.prefix + self.layout.block.format(block[1]) if block else self.prefix
        stem, kind = _stem(inside)
        renamed = {**self.layout.renamed, **self.layout.gated} if self.gated else self.layout.renamed
        found = renamed.get(stem, stem)
        names = found if isinstance(found, tuple) else (found,)
        # nn.MultiheadAttention writes its kinds with an underscore.
        stored = tuple(f"{around}{name}{kind}".replace("in_proj.", "in_proj_") for name in names)
        if stem in ("attn_pool.q", "attn_pool.kv") and not self.layout.splits_pool:
            return Source(stored, thirds=(0, 1) if stem == "attn_pool.q" else (1, 3))
        if len(stored) > 1 and kind == ".bias":
            return Source(tuple(name if name in self.names else None for name in stored))
        own = self.layout
        return Source(
            stored,
            leading=own.leading.get(weight, 0),
            frames=own.frames.get(weight, 0),
            zeros=own.zeros.get(weight, 0),
        )

    @property
    def gated(self) -> bool:
        """Whether its MLPs are gated."""
        found = self.layout.gated.get("mlp.c_fc")
        first = found[0] if isinstance(found, tuple) else found
        return f"{self.prefix}{self.layout.block.format(0)}{first}.weight" in self.names

    def count(self, weight: str) -> int:
        """How many weights of a name with {} for an index there are, from 0 upwards."""
        found = 0
        while self.has(weight.format(found)):
            found += 1
        return found

    def has(self, weight: str) -> bool:
        """Whether any tensor of a weight is in the checkpoint."""
        return any(name in self.names for name in self.source(weight).stored)

    def blocks(self) -> int:
        """One more than the highest index of a block."""
        # A higher number than three digits would only cost time: no such tower is built.
        within = re.escape(self.prefix + self.layout.block).replace(r"\{\}", r"(\d{1,3})")
        return 1 + max(
            (int(match[1]) for match in map(re.compile(within).match, self.names) if match), default=-1
        )

    def concerns(self, name: str) -> bool:
        """Whether a tensor belongs to the tower, or nobody knows to what."""
        if name.removeprefix(self.prefix) in self.layout.unused and name.startswith(self.prefix):
            return False
        return name.startswith(self.prefix) or _root(name) not in _BESIDE

    @property
    def _projection_name(self) -> str:
        return self.prefix.removesuffix("vision_model.") + "visual_projection.weight"


def find_towers(names: AbstractSet[str]) -> list[Tower]:
    """Return the image towers in a checkpoint, by the names of its tensors."""
    towers: list[Tower] = []
    for layout in LAYOUTS:
        seen: dict[str, int] = {}
        for name in names:
            for sign in layout.signs:
                if name == sign or name.endswith(f".{sign}"):
                    prefix = name.removesuffix(sign)
                    seen[prefix] = seen.get(prefix, 0) + 1
        for prefix in sorted(prefix for prefix, count in seen.items() if count >= _ENOUGH_SIGNS):
            # Perception Encoder has all that open_clip's towers have.
            apart = layout.name != OPEN_CLIP or all(tower.prefix != prefix for tower in towers)
            if apart and (layout.foreign is None or prefix + layout.foreign not in names):
                towers.append(_tower(layout, prefix, names))
    return towers


def _tower(layout: Layout, prefix: str, names: AbstractSet[str]) -> Tower:
    beside = {_root(name) for name in names if not name.startswith(prefix) or not prefix}
    tower = Tower(layout, prefix, True, beside >= _OPENAI, names)
    # A CLIP's tower ends with its projection; CLIPVisionModel, LLaVA and the other families end with the tokens.
    whole = layout.clip and tower.has("class_embedding") and "text_model" in beside
    if layout.name in (OPEN_CLIP, PERCEPTION) or whole or tower.has("proj"):
        return tower
    return Tower(layout, prefix, False, tower.openai, names)


def _stem(weight: str) -> tuple[str, str]:
    """A weight's layer, and the rest of its name; of an attention's input, whose kinds have an underscore, too."""
    for kind in ("weight", "bias"):
        if weight == f"attn.in_proj_{kind}":
            return "attn.in_proj", f".{kind}"
        if weight.endswith(f".{kind}"):
            return weight.removesuffix(f".{kind}"), f".{kind}"
    return weight, ""


def _root(name: str) -> str:
    return _AROUND.sub("", name).split(".")[0]
