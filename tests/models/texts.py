"""Small text towers in the names of those who publish them, and a small tokenizer in CLIP's form."""

import json

import torch
from safetensors.torch import save_file

from fsfast.models import TextConfig, TextTower

MERGES = ("c a", "ca t</w>", "p h", "ph o")
WORDS = ["cat", "A  Cat!", "photo 42", "l'été’s", "«» 🐼", "cat's", "CAFÉ"]


def alphabet():
    """The characters by which GPT-2 and CLIP write bytes, in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


TOKENS = [
    *alphabet(),
    *(f"{character}</w>" for character in alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
SMALL_CLIP = TextConfig("clip", len(TOKENS), 16, 128, 2, 2, 96, 24, "quick_gelu", 1e-5)
SMALL_SIGLIP = TextConfig("siglip", 20, 8, 48, 2, 3, 64, 24, "gelu_tanh", 1e-6)
_OPEN_CLIP = {
    **{"blocks.": "transformer.resblocks.", "self_attn.": "attn.", "norm1.": "ln_1.", "norm2.": "ln_2."},
    **{"linear1.": "mlp.c_fc.", "linear2.": "mlp.c_proj."},
}
_TRANSFORMERS = {
    **{"blocks.": "encoder.layers.", "norm1.": "layer_norm1.", "norm2.": "layer_norm2."},
    **{"linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.", "ln_final.": "final_layer_norm."},
    **{"token_embedding.": "embeddings.token_embedding."},
    "positional_embedding": "embeddings.position_embedding.weight",
}


def random_tower(config):
    """A tower whose every weight is random, those that begin as zeros and ones included."""
    torch.manual_seed(0)
    tower = TextTower(config).eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    return tower


def as_open_clip(tower):
    """A tower's weights in the names of OpenAI and open_clip, beside a piece of an image tower."""
    tensors = {"visual.proj": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    for name, value in tower.state_dict().items():
        if name == "projection.weight":
            tensors["text_projection"] = value.T.contiguous()
        else:
            tensors[_renamed(name, _OPEN_CLIP)] = value
    return tensors


def as_transformers(tower):
    """A tower's weights in the names of transformers, beside a piece of an image tower."""
    tensors = {"vision_model.embeddings.class_embedding": torch.zeros(2), "logit_scale": torch.zeros(())}
    for name, value in tower.state_dict().items():
        if "in_proj_" in name:
            stem, kind = name.split("in_proj_")
            for part, third in zip("qkv", value.chunk(3), strict=True):
                key = _renamed(f"{stem}{part}_proj.{kind}", _TRANSFORMERS)
                tensors[f"text_model.{key}"] = third.contiguous()
        elif name.startswith("projection."):
            head = "text_model.head." if tower.config.kind == "siglip" else "text_projection."
            tensors[name.replace("projection.", head)] = value
        else:
            tensors[f"text_model.{_renamed(name, _TRANSFORMERS)}"] = value
    return tensors


def transformers_config(config):
    """config.json of a whole model."""
    acts = {"gelu_tanh": "gelu_pytorch_tanh"}
    text = {
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": acts.get(config.activation, config.activation),
        "layer_norm_eps": config.norm_eps,
    }
    return {"model_type": config.kind, "text_config": {"model_type": f"{config.kind}_text_model", **text}}


def save_transformers(folder, tower):
    """Write a directory as transformers does."""
    save_file(as_transformers(tower), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(transformers_config(tower.config)))


def _renamed(name, names):
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def write_tokenizer(folder):
    """Write vocab.json and merges.txt."""
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
