"""The names that published checkpoints give to the weights of an image tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

OPEN_CLIP = "open_clip"
TRANSFORMERS = "transformers"
TIMM = "timm"
PERCEPTION = "perception encoder"
# More taps than any DeepStack has.
MAX_TAPS = 16


@dataclass(frozen=True)
class Layout:
    """How one library names the weights of one kind of tower.

    Attributes:
        name: as `Loaded.layout` says it.
        signs: names that tell the layout; three of them make a tower.
        block: what stands before the names in a block, with {} for its index.
        renamed: layer of VisionTransformer → theirs, or theirs in order, joined.
        gated: the same of gated MLPs.
        leading: weight of VisionTransformer → axes of 1 before its own.
        unused: tensors of the tower that its outputs do not depend on.
        clip: whether it names CLIP's towers.
        splits_pool: whether queries of the pooling attention are stored apart from its keys and values.
        frames: weight of VisionTransformer → frames of a video that theirs has weights for, along the axis 2.
        qwen: whether it names towers of Qwen-VL, which take every image size.
        family: of its towers, in words.
        classless: the family of those without a class token, where that is another.
        ungated: the family of those whose MLPs have no gates, where that is another.
        zeros: weight of VisionTransformer → rows that are not stored before the others, and are zero.
        foreign: a name that tells another layout with the same signs.
    """

    name: str
    signs: tuple[str, ...]
    block: str
    renamed: Mapping[str, str | tuple[str, ...]]
    leading: Mapping[str, int] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    gated: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    clip: bool = False
    splits_pool: bool = True
    frames: Mapping[str, int] = field(default_factory=dict)
    qwen: bool = False
    family: str = ""
    classless: str | None = None
    ungated: str | None = None
    zeros: Mapping[str, int] = field(default_factory=dict)
    foreign: str | None = None


def _each(stem: str, parts: str = "qkv") -> tuple[str, ...]:
    return tuple(stem.format(part) for part in parts)


_OPEN_CLIP = Layout(
    OPEN_CLIP,
    ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight", "ln_post.weight"),
    "transformer.resblocks.{}.",
    {},
    clip=True,
    family="CLIP",
)
# CLIP and SigLIP; "pre_layrnorm" is spelled so there.
_TRANSFORMERS = Layout(
    TRANSFORMERS,
    (
        "embeddings.class_embedding",
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
        "pre_layrnorm.weight",
        "post_layernorm.weight",
    ),
    "encoder.layers.{}.",
    {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1": "embeddings.patch_embedding",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.in_proj": _each("self_attn.{}_proj"),
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn_pool.latent": "head.probe",
        "attn_pool.q": "head.attention.in_proj",
        "attn_pool.kv": "head.attention.in_proj",
        "attn_pool.proj": "head.attention.out_proj",
        "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp.c_fc": "head.mlp.fc1",
        "attn_pool.mlp.c_proj": "head.mlp.fc2",
    },
    {"attn_pool.latent": 2},
    # 0, 1, 2, …: transformers saved this buffer up to 4.30.
    frozenset({"embeddings.position_ids"}),
    clip=True,
    splits_pool=False,
    family="CLIP",
    classless="SigLIP",
)
# SigLIP inside open_clip, and DINOv2 as its authors save it; DINOv2 without registers as timm does.
_TIMM = Layout(
    TIMM,
    ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "norm.weight"),
    "blocks.{}.",
    {
        "class_embedding": "cls_token",
        "positional_embedding": "pos_embed",
        "register_tokens": "register_tokens",
        "conv1": "patch_embed.proj",
        "ln_post": "norm",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "ls_1.gamma": "ls1.gamma",
        "ls_2.gamma": "ls2.gamma",
        "attn.in_proj": "attn.qkv",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn_pool.mlp.c_fc": "attn_pool.mlp.fc1",
        "attn_pool.mlp.c_proj": "attn_pool.mlp.fc2",
    },
    {"class_embedding": 2, "positional_embedding": 1, "register_tokens": 1, "attn_pool.latent": 2},
    frozenset({"mask_token"}),
    {"mlp.c_fc": "mlp.w12", "mlp.c_proj": "mlp.w3"},
    family="DINOv2",
    classless="SigLIP",
    foreign="reg_token",
)
# DINOv2 with registers as timm has it: the class token's position is part of the class token.
_TIMM_REGISTERS = replace(
    _TIMM,
    signs=("patch_embed.proj.weight", "reg_token", "blocks.0.attn.qkv.weight"),
    renamed={**_TIMM.renamed, "register_tokens": "reg_token"},
    zeros={"positional_embedding": 1},
    classless=None,
    foreign=None,
)
_DINOV2 = Layout(
    TRANSFORMERS,
    (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.attention.query.weight",
        "encoder.layer.0.layer_scale1.lambda1",
        "encoder.layer.0.norm1.weight",
    ),
    "encoder.layer.{}.",
    {
        "class_embedding": "embeddings.cls_token",
        "positional_embedding": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "conv1": "embeddings.patch_embeddings.projection",
        "ln_post": "layernorm",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "ls_1.gamma": "layer_scale1.lambda1",
        "ls_2.gamma": "layer_scale2.lambda1",
        "attn.in_proj": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        "attn.out_proj": "attention.output.dense",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    },
    {"class_embedding": 2, "positional_embedding": 1, "register_tokens": 1},
    frozenset({"embeddings.mask_token"}),
    {"mlp.c_fc": "mlp.weights_in", "mlp.c_proj": "mlp.weights_out"},
    family="DINOv2",
)
_DINOV3 = Layout(
    TRANSFORMERS,
    (
        "embeddings.patch_embeddings.weight",
        "layer.0.attention.q_proj.weight",
        "layer.0.layer_scale1.lambda1",
        "layer.0.norm1.weight",
    ),
    "layer.{}.",
    {
        "class_embedding": "embeddings.cls_token",
        "register_tokens": "embeddings.register_tokens",
        "conv1": "embeddings.patch_embeddings",
        "ln_post": "norm",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "ls_1.gamma": "layer_scale1.lambda1",
        "ls_2.gamma": "layer_scale2.lambda1",
        "attn.in_proj": _each("attention.{}_proj"),
        "attn.out_proj": "attention.o_proj",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    },
    {"class_embedding": 2, "register_tokens": 1},
    frozenset({"embeddings.mask_token"}),
    {"mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj")},
    family="DINOv3",
)
_INTERNVIT = Layout(
    TRANSFORMERS,
    (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.projection_layer.weight",
        "encoder.layer.0.layernorm_before.weight",
        "encoder.layer.0.lambda_1",
    ),
    "encoder.layer.{}.",
    {
        "class_embedding": "embeddings.cls_token",
        "positional_embedding": "embeddings.position_embeddings",
        "conv1": "embeddings.patch_embeddings.projection",
        "ln_1": "layernorm_before",
        "ln_2": "layernorm_after",
        "ls_1.gamma": "lambda_1",
        "ls_2.gamma": "lambda_2",
        "attn.in_proj": _each("attention.{}_proj"),
        "attn.out_proj": "attention.projection_layer",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    },
    {"class_embedding": 2, "positional_embedding": 1},
    frozenset({"embeddings.mask_token"}),
    family="InternViT",
)
_INTERNVIT_AUTHORS = Layout(
    TRANSFORMERS,
    (
        "embeddings.class_embedding",
        "embeddings.position_embedding",
        "encoder.layers.0.attn.qkv.weight",
        "encoder.layers.0.ls1",
    ),
    "encoder.layers.{}.",
    {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding",
        "conv1": "embeddings.patch_embedding",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "ls_1.gamma": "ls1",
        "ls_2.gamma": "ls2",
        "attn.in_proj": "attn.qkv",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    },
    {"class_embedding": 2, "positional_embedding": 1},
    family="InternViT",
)
# Of Qwen2-VL and Qwen2.5-VL.
_QWEN2 = Layout(
    TRANSFORMERS,
    ("patch_embed.proj.weight", "merger.ln_q.weight", "merger.mlp.0.weight", "merger.mlp.2.weight"),
    "blocks.{}.",
    {
        "conv1": "patch_embed.proj",
        "ln_post": "merger.ln_q",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.in_proj": "attn.qkv",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "merger.c_fc": "merger.mlp.0",
        "merger.c_proj": "merger.mlp.2",
    },
    gated={"mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"), "mlp.c_proj": "mlp.down_proj"},
    frames={"conv1.weight": 2},
    qwen=True,
    family="Qwen2.5-VL",
    ungated="Qwen2-VL",
)
_QWEN3 = Layout(
    TRANSFORMERS,
    ("patch_embed.proj.weight", "pos_embed.weight", "merger.norm.weight", "merger.linear_fc1.weight"),
    "blocks.{}.",
    {
        "conv1": "patch_embed.proj",
        "positional_embedding": "pos_embed.weight",
        "ln_post": "merger.norm",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.in_proj": "attn.qkv",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.linear_fc1",
        "mlp.c_proj": "mlp.linear_fc2",
        "merger.c_fc": "merger.linear_fc1",
        "merger.c_proj": "merger.linear_fc2",
        **{
            f"deepstack.{i}.{ours}": f"deepstack_merger_list.{i}.{theirs}"
            for i in range(MAX_TAPS)
            for ours, theirs in (("norm", "norm"), ("c_fc", "linear_fc1"), ("c_proj", "linear_fc2"))
        },
    },
    frames={"conv1.weight": 2},
    qwen=True,
    family="Qwen3-VL",
)
# As its authors save it: open_clip's names, and a pooling attention of its own.
_PERCEPTION = Layout(
    PERCEPTION,
    ("conv1.weight", "ln_pre.weight", "attn_pool.probe", "attn_pool.layernorm.weight"),
    "transformer.resblocks.{}.",
    {
        "attn_pool.latent": "attn_pool.probe",
        "attn_pool.q": "attn_pool.attn.in_proj",
        "attn_pool.kv": "attn_pool.attn.in_proj",
        "attn_pool.proj": "attn_pool.attn.out_proj",
        "attn_pool.norm": "attn_pool.layernorm",
    },
    {"attn_pool.latent": 2},
    splits_pool=False,
    family="Perception Encoder",
    classless="Perception Encoder G",
)
LAYOUTS = (
    _QWEN2,
    _QWEN3,
    _PERCEPTION,
    _OPEN_CLIP,
    _TRANSFORMERS,
    _TIMM,
    _TIMM_REGISTERS,
    _DINOV2,
    _DINOV3,
    _INTERNVIT,
    _INTERNVIT_AUTHORS,
)
