"""A LLaVA of 100,000 random parameters in published names, and an engine of its vision tower."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from export.__main__ import main as export

SIDE, PATCH, WIDTH = 56, 14, 32
TOKENS = (SIDE // PATCH) ** 2
WORDS = [f"word{i}" for i in range(24)]
PROMPT = "USER : <image> word1 word2 ASSISTANT :"
NEW_TOKENS = 12
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "ASSISTANT", ":"]
# Never to be answered: hosts differ in how they go on after it.
IMAGE_TOKEN = SPECIAL.index("<image>")
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
RECIPE = """
name = "tiny-llava"
sigma = {sigma}
n0 = 3

[grid]
height = {side}
width = {side}
fit = "crop-floor"
filter = "bicubic"

[normalise]
mean = {mean}
std = {std}

[encoder]
output = "{output}"
ln_post = false

[encoder.config]
width = {width}
layers = 3
heads = 4
patch = {patch}
image_size = {side}
embed_dim = {width}
mlp_ratio = 2
activation = "quick_gelu"
projection = false

[weights]
encoder = ["made by the tests"]
licence = "Apache-2.0"
"""


def make_llava(folder: Path) -> Path:
    """Write a checkpoint as llava-hf has them: names of transformers 4, tokenizer, processor, chat template."""
    tokens = [*SPECIAL, *WORDS]
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
        initializer_range=0.2,
    )
    text = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        # vLLM's attention on CPUs takes heads of 32 channels and more.
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=TOKENS,
        architectures=["LlavaForConditionalGeneration"],
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).float()
    folder.mkdir(parents=True)
    weights = {_published(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.dtype = "float32"
    config.save_pretrained(folder)
    _processor(tokens).save_pretrained(folder)
    return folder


def _published(name: str) -> str:
    name = name.removeprefix("model.")
    for old, new in (
        ("vision_tower.", "vision_tower.vision_model."),
        ("language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(old) and not name.startswith(new):
            return new + name.removeprefix(old)
    return name


def _processor(tokens: list[str]) -> LlavaProcessor:
    words = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    side = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )


def make_engine(folder: Path, checkpoint: Path, sigma: float, output: str = "penultimate") -> Path:
    """Export the vision tower of a checkpoint."""
    recipe = folder.with_suffix(".toml")
    facts = {"side": SIDE, "width": WIDTH, "patch": PATCH, "sigma": sigma, "output": output}
    recipe.write_text(RECIPE.format(**facts, **{name: json.dumps(value) for name, value in CLIP.items()}))
    assert export([str(recipe), "--encoder", str(checkpoint), "--out", str(folder)]) == 0
    return folder


def pictures() -> list[Image.Image]:
    """Three of other sizes than the grid's."""
    draw = np.random.default_rng(1)
    coarse = [draw.integers(0, 256, (5, 6, 3), np.uint8) for _ in range(3)]
    return [
        Image.fromarray(a).resize(size, Image.Resampling.BICUBIC)
        for a, size in zip(coarse, [(90, 70), (56, 56), (60, 130)], strict=True)
    ]
