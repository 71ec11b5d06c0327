"""Synthetic checkpoints with the names and shapes of published ones.

Names were taken from open_clip 3.3 and from what save_pretrained of transformers 4.37, 4.46, 4.51, 4.57 and 5.23
writes; `test_parity.py` compares them with the libraries where they are installed.
"""

import json
import re

import torch
from safetensors.torch import save_file

from fsfast.models import ViTConfig

# An odd number of patches (9), and an embedding width of its own.
NARROW = ViTConfig(width=32, layers=3, heads=4, patch=4, image_size=12, embed_dim=24, activation="quick_gelu")
TEXT = {"width": 16, "words": 50, "length": 8}


def tower_shapes(config):
    """Name in open_clip → shape, of an image tower."""
    d, hidden = config.width, config.hidden
    block = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.in_proj_weight": (3 * d, d),
        "attn.in_proj_bias": (3 * d,),
        "attn.out_proj.weight": (d, d),
        "attn.out_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (hidden, d),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (d, hidden),
        "mlp.c_proj.bias": (d,),
    }
    return {
        "class_embedding": (d,),
        "positional_embedding": ((config.image_size // config.patch) ** 2 + 1, d),
        "proj": (d, config.embed_dim),
        "conv1.weight": (d, 3, config.patch, config.patch),
        **{f"{norm}.{kind}": (d,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
        **{f"transformer.resblocks.{i}.{name}": s for i in range(config.layers) for name, s in block.items()},
    }


def tower(config=NARROW, seed=0):
    """Random weights of an image tower, in open_clip's names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.3 for name, shape in tower_shapes(config).items()
    }


def hollow(config):
    """An image tower of any size whose file is small: every tensor repeats one number of its own."""
    shapes = tower_shapes(config)
    return {name: torch.full((1,), 0.01 * (i + 1)).expand(s) for i, (name, s) in enumerate(shapes.items())}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def open_clip_text():
    """The rest of an open_clip CLIP: the text tower has names like those of an image tower."""
    d = TEXT["width"]
    names = ("ln_1.weight", "attn.in_proj_weight", "mlp.c_fc.weight")
    return {
        "positional_embedding": torch.zeros(TEXT["length"], d),
        "token_embedding.weight": torch.zeros(TEXT["words"], d),
        "ln_final.weight": torch.ones(d),
        "ln_final.bias": torch.zeros(d),
        "text_projection": torch.zeros(d, NARROW.embed_dim),
        "logit_scale": torch.tensor(2.6592),
        **{f"transformer.resblocks.0.{name}": torch.zeros(d) for name in names},
    }


def openai_extras():
    """What the state dict of OpenAI's own files has besides."""
    return {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }


_TRANSFORMERS = [
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    # So spelled.
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]


def as_transformers(tensors, prefix="vision_model.", projection=None, position_ids=False):
    """An image tower in transformers' names.

    prefix: "vision_model." of CLIPVisionModel up to 4.57 and of CLIPModel, "" of CLIPVisionModel since 5.
    projection: full name of the projection, None without one.
    position_ids: the buffer that versions up to 4.30 saved.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name == "proj":
            if projection:
                renamed[projection] = tensor.T.contiguous()
            continue
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                key = f"{prefix}encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"
                renamed[key] = chunk.clone()
            continue
        for pattern, new in _TRANSFORMERS:
            name = re.sub(pattern, new, name)
        renamed[prefix + name] = tensor
    if position_ids:
        renamed[f"{prefix}embeddings.position_ids"] = torch.arange(10)[None]
    return renamed


def transformers_text():
    """The rest of a CLIPModel."""
    d = TEXT["width"]
    return {
        "logit_scale": torch.tensor(2.6592),
        "text_projection.weight": torch.zeros(NARROW.embed_dim, d),
        "text_model.embeddings.position_ids": torch.arange(TEXT["length"])[None],
        "text_model.embeddings.position_embedding.weight": torch.zeros(TEXT["length"], d),
        "text_model.embeddings.token_embedding.weight": torch.zeros(TEXT["words"], d),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(d, d),
        "text_model.final_layer_norm.weight": torch.ones(d),
    }


def llava_rest(prefix=""):
    """The rest of a LLaVA-1.5 of transformers, in 16-bit floats as published."""
    names = {
        "language_model.lm_head.weight": (50, 16),
        "language_model.model.embed_tokens.weight": (50, 16),
        "language_model.model.layers.0.self_attn.q_proj.weight": (16, 16),
        "language_model.model.norm.weight": (16,),
        "multi_modal_projector.linear_1.weight": (16, 32),
        "multi_modal_projector.linear_2.bias": (16,),
    }
    return {prefix + name: torch.zeros(shape, dtype=torch.float16) for name, shape in names.items()}


def authors_llava_rest():
    """The rest of a LLaVA-1.5 as the authors' own code saves it."""
    names = {
        "lm_head.weight": (50, 16),
        "model.embed_tokens.weight": (50, 16),
        "model.layers.0.self_attn.q_proj.weight": (16, 16),
        "model.norm.weight": (16,),
        "model.mm_projector.0.weight": (16, 32),
    }
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in names.items()}


def clip_vision_config(config=NARROW, **changed):
    """config.json of a CLIPVisionModel."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "hidden_act": "quick_gelu" if config.activation == "quick_gelu" else "gelu",
        "layer_norm_eps": 1e-05,
        **changed,
    }


def llava_config(config=NARROW):
    """config.json of a LLaVA: activations that are the default are left out, as transformers does."""
    vision = clip_vision_config(config)
    del vision["hidden_act"], vision["layer_norm_eps"], vision["architectures"]
    return {"model_type": "llava", "vision_config": vision, "text_config": {"model_type": "llama"}}


def open_clip_config(config=NARROW, **vision):
    """open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": config.activation == "quick_gelu",
            "vision_cfg": {
                "image_size": config.image_size,
                "layers": config.layers,
                "width": config.width,
                "head_width": config.width // config.heads,
                "patch_size": config.patch,
                **vision,
            },
            "text_cfg": {"context_length": 8},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]},
    }


def write_json(path, record):
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def write_shards(folder, tensors, suffix="safetensors", shards=3, stem="model"):
    """A sharded checkpoint with its index, the tensors in the order given; returns the shards' paths."""
    names = list(tensors)
    size = -(-len(names) // shards)
    paths, places = [], {}
    for i in range(shards):
        path = folder / f"{stem}-{i + 1:05d}-of-{shards:05d}.{suffix}"
        own = {name: tensors[name] for name in names[i * size : (i + 1) * size]}
        save_file(own, path) if suffix == "safetensors" else torch.save(own, path)
        places |= dict.fromkeys(own, path.name)
        paths.append(path)
    record = {"metadata": {"total_size": 1}, "weight_map": places}
    write_json(folder / f"{stem}.{suffix}.index.json", record)
    return paths


WEIGHTS = tower()
# What is saved; whose names; whether there is a projection.
LAYOUTS = {
    "FARE: bare": (WEIGHTS, "open_clip", True),
    "DataParallel": (prefixed("module.", WEIGHTS), "open_clip", True),
    "open_clip": (prefixed("visual.", WEIGHTS) | open_clip_text(), "open_clip", True),
    "open_clip, CustomTextCLIP": (
        prefixed("visual.", WEIGHTS) | prefixed("text.", open_clip_text()) | {"logit_bias": torch.zeros(1)},
        "open_clip",
        True,
    ),
    "open_clip, DataParallel": (
        prefixed("module.", prefixed("visual.", WEIGHTS) | open_clip_text()),
        "open_clip",
        True,
    ),
    "OpenFlamingo": (
        prefixed("vision_encoder.", WEIGHTS)
        | {"perceiver.latents": torch.zeros(2), "lang_encoder.x": torch.zeros(2)},
        "open_clip",
        True,
    ),
    "CLIPVisionModel <= 4": (as_transformers(WEIGHTS), "transformers", False),
    "CLIPVisionModel <= 4.30": (as_transformers(WEIGHTS, position_ids=True), "transformers", False),
    "CLIPVisionModel 5": (as_transformers(WEIGHTS, ""), "transformers", False),
    "CLIPVisionModelWithProjection": (
        as_transformers(WEIGHTS, projection="visual_projection.weight"),
        "transformers",
        True,
    ),
    "CLIPModel": (
        as_transformers(WEIGHTS, projection="visual_projection.weight", position_ids=True)
        | transformers_text(),
        "transformers",
        True,
    ),
    "LLaVA of transformers 4": (
        as_transformers(WEIGHTS, "vision_tower.vision_model.") | llava_rest(),
        "transformers",
        False,
    ),
    "LLaVA of transformers 5": (
        as_transformers(WEIGHTS, "vision_tower.") | llava_rest(),
        "transformers",
        False,
    ),
    "LLaVA in the memory of transformers 4": (
        as_transformers(WEIGHTS, "model.vision_tower.vision_model.") | llava_rest("model."),
        "transformers",
        False,
    ),
    "LLaVA in the memory of transformers 5": (
        as_transformers(WEIGHTS, "model.vision_tower.") | llava_rest("model."),
        "transformers",
        False,
    ),
    "LLaVA by its authors' code": (
        as_transformers(WEIGHTS, "model.vision_tower.vision_tower.vision_model.") | authors_llava_rest(),
        "transformers",
        False,
    ),
}
