"""Networks that are none of the image towers here: what they are, by their names, and what would help."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fsfast.errors import CheckpointError

OUTSIDE = "fsfast export torch takes its module, fsfast export onnx a graph of it"
_WITH_A_VIT = f"choose one with a ViT, or: {OUTSIDE}"


@dataclass(frozen=True)
class Foreign:
    """A kind of network.

    Attributes:
        signs: patterns; names that match all of them tell the kind.
        what: in words, with an article.
        remedy: what would help.
    """

    signs: tuple[str, ...]
    what: str
    remedy: str = OUTSIDE

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class ForeignNetwork(CheckpointError):
    """A checkpoint is of a network that is known, and none of the image towers here.

    Args:
        path: of the checkpoint.
        kind: of network.
    """

    def __init__(self, path: Path, kind: Foreign) -> None:
        super().__init__(f"{path}: wanted an image tower, got {kind}")
        self.kind = kind


_SWIN = r"layers\.0\.blocks\.0\.att(n|ention\.self)\."
_EVA = r"blocks\.0\.attn\.(q_bias|q_proj\.weight|inner_attn_ln\.weight)$"
_BEHIND_CONVOLUTIONS = "a ViT behind convolutions (MobileCLIP-B, ViTamin)"
_POSITION_BIAS = r"(relative_position_bias_table|relative_position_index|rel_pos\w*\.\w+)$"
# They have the names of a tower of timm's kind, and compute something else. Patterns are those of names in the tower.
_LIKE_A_TOWER = (
    Foreign(
        (r"^storage_tokens$",),
        "a DINOv3 in its authors' names, whose mask of biases the weights do not show",
        "take the same weights from the Hugging Face hub (facebook/dinov3-…)",
    ),
    Foreign(
        (r"^reg_token$", r"^blocks\.0\.gamma_1$"),
        "a DINOv3 in timm's names",
        "take the same weights from the Hugging Face hub (facebook/dinov3-…)",
    ),
    Foreign((r"^blocks\.0\.attn\.rel_pos_h$",), "the image encoder of a SAM"),
    Foreign((rf"^blocks\.0\.attn\.{_POSITION_BIAS}",), "a BEiT"),
    Foreign((rf"^{_EVA}",), "an EVA"),
    Foreign((r"^blocks\.0\.mlp\.fc1_g\.weight$",), "an AIMv2 in timm's names"),
    Foreign((r"^patch_embed\.backbone\.",), _BEHIND_CONVOLUTIONS),
    Foreign((r"^blocks\.\d+\.proj\.weight$",), "a Hiera"),
    Foreign(
        (r"^attn_pool\.query$",),
        "a CoCa, whose tokens are pooled by attention of many queries",
        f"choose a CLIP, or: {OUTSIDE}",
    ),
)
# Known by a shape: its patches are flattened, and positions stand for other sizes.
NAFLEX = Foreign(
    (),
    "a SigLIP 2 of the NaFlex kind, whose pictures keep their proportions",
    "choose a checkpoint of a fixed resolution (google/siglip2-…-patch16-384)",
)
TIMM_VIT = Foreign(
    (r"(^|\.)patch_embed\.proj\.weight$",),
    "a ViT in timm's names that is no DINOv2 or SigLIP",
    f"choose one of the families in docs/engines.md, or: {OUTSIDE}",
)
# The rest, the most particular first.
_ELSE = (
    Foreign((r"(^|\.)attnpool\.positional_embedding$",), "a CLIP with a ResNet", _WITH_A_VIT),
    Foreign((r"\btoken_mixer\.",), "a FastViT, as in MobileCLIP"),
    Foreign((r"(^|\.)trunk\.stem\.0\.weight$",), "an open_clip model around a ConvNeXt", _WITH_A_VIT),
    Foreign((r"\bstages\.0\.(blocks|layers)\.0\.(conv_dw|dwconv|depthwise_conv)\.weight$",), "a ConvNeXt"),
    Foreign((r"\b(spatial_block\.|cpe1\.proj\.)",), "a DaViT, as in Florence-2"),
    Foreign((rf"\b{_SWIN}", rf"{_POSITION_BIAS}|logit_scale$"), "a Swin transformer"),
    Foreign((r"\b(rel_pos_h|pos_embed_window)$",), "a SAM"),
    Foreign((_POSITION_BIAS, r"\b(blocks|layer|layers)\.0\.(gamma|lambda)_1$"), "a BEiT"),
    Foreign((rf"\b{_EVA}",), "an EVA"),
    Foreign((r"\bpatch_embed\.backbone\.",), _BEHIND_CONVOLUTIONS),
    Foreign(
        (r"(^|\.)embeds\.proj\.weight$",),
        NAFLEX.what,
        NAFLEX.remedy,
    ),
    Foreign((r"\brms_norm1\.weight$", r"\bffn\.gate_proj\.weight$"), "an AIMv2"),
    Foreign(
        (r"\bpatch_embeddings\.projection\.weight$", r"\blayer\.0\.intermediate\.dense\.weight$"),
        "a ViT of transformers that is no DINOv2 (ViT, DeiT, BEiT, MAE)",
    ),
    Foreign((r"\blayer1\.0\.conv1\.weight$",), "a ResNet"),
    Foreign((r"\bembedder\.embedder\.convolution\.weight$",), "a ResNet of transformers"),
    Foreign((r"(^|\.)conv_stem\.weight$",), "a convolutional network of timm (EfficientNet, MobileNet)"),
    Foreign(
        (r"(^|\.)visual\.trunk\.",),
        "an open_clip model around a tower of timm that is no SigLIP",
        f"choose one with open_clip's own ViT, or: {OUTSIDE}",
    ),
    TIMM_VIT,
    Foreign((r"(^|\.)time_embed\.0\.weight$",), "a U-Net", "use load_purifier"),
    Foreign((r"(^|\.)down_blocks\.0\.0\.conv1\.weight$",), "a DRUNet", "use load_purifier"),
    Foreign((r"(^|\.)blocks\.0\.film\.0\.weight$",), "a smoothness mapper", "use load_mapper"),
    Foreign((r"^down$", r"^up$"), "a low-rank mapper", "use load_mapper"),
    Foreign(
        (r"(^|\.)lm_head\.weight$",),
        "a language model without its image tower",
        "for LLaVA-1.5 as its authors published it, load openai/clip-vit-large-patch14-336",
    ),
)


def foreign(names: Iterable[str]) -> Foreign | None:
    """Return what a checkpoint without an image tower of ours is, by the names of its tensors; None: nobody knows."""
    return _first(_ELSE, names)


def foreign_tower(names: Iterable[str]) -> Foreign | None:
    """Return what a tower is that has names as ours have, and is another network; None for ours.

    Args:
        names: of its tensors, without what stands before all of them.
    """
    return _first(_LIKE_A_TOWER, names)


def _first(kinds: Iterable[Foreign], names: Iterable[str]) -> Foreign | None:
    # One text, a name on each line, is searched much faster than names one by one.
    text = "\n".join(names)
    return next(
        (kind for kind in kinds if all(re.search(sign, text, re.MULTILINE) for sign in kind.signs)), None
    )
