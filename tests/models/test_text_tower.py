"""Text towers: what they compute, from every layout; what cannot be loaded is refused with a remedy.

`test_parity_text.py` compares them with open_clip and transformers where these are installed.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import load_text_tower
from tests.models.texts import (
    SMALL_CLIP,
    SMALL_SIGLIP,
    as_open_clip,
    as_transformers,
    random_tower,
    save_transformers,
    transformers_config,
)

OPENAI = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
TOKENS = torch.tensor([[1, 5, 3, 2, 4, 0], [7, 6, 0, 1, 1, 1]])
ENDS = torch.tensor([5, 2])


def by_formula(tower, tokens, ends):
    """The tower's outputs in float64, head by head."""
    w = {name: value.double() for name, value in tower.state_dict().items()}
    config, length = tower.config, tokens.shape[1]
    act = {
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    norm = lambda x, n: F.layer_norm(x, x.shape[-1:], w[f"{n}.weight"], w[f"{n}.bias"], config.norm_eps)  # noqa: E731
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"][:length]
    hidden = torch.ones(length, length).triu(1).bool() if config.kind == "clip" else torch.zeros(1).bool()
    for i in range(config.layers):
        b = f"blocks.{i}."
        y = norm(x, b + "norm1") @ w[b + "self_attn.in_proj_weight"].T + w[b + "self_attn.in_proj_bias"]
        heads = []
        for q, k, v in zip(
            *(part.split(config.width // config.heads, -1) for part in y.chunk(3, -1)), strict=True
        ):
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + torch.cat(heads, -1) @ w[b + "self_attn.out_proj.weight"].T + w[b + "self_attn.out_proj.bias"]
        y = act[config.activation](norm(x, b + "norm2") @ w[b + "linear1.weight"].T + w[b + "linear1.bias"])
        x = x + y @ w[b + "linear2.weight"].T + w[b + "linear2.bias"]
    pooled = norm(x, "ln_final")[torch.arange(len(x)), ends] @ w["projection.weight"].T
    return pooled + w.get("projection.bias", 0.0)


@pytest.mark.parametrize("config", [SMALL_CLIP, SMALL_SIGLIP], ids=["CLIP", "SigLIP"])
def test_a_tower_computes_what_the_formula_says(config):
    tower = random_tower(config)
    with torch.inference_mode():
        torch.testing.assert_close(
            tower(TOKENS, ENDS).double(), by_formula(tower, TOKENS, ENDS), rtol=0, atol=1e-5
        )


def test_only_siglips_texts_depend_on_what_follows_their_end():
    """So that CLIP's need not be padded to the whole context."""
    changed = TOKENS.clone()
    changed[1, 3:] = 9
    clip, siglip = (random_tower(config) for config in (SMALL_CLIP, SMALL_SIGLIP))
    torch.testing.assert_close(clip(changed, ENDS), clip(TOKENS, ENDS))
    assert (siglip(changed, ENDS) - siglip(TOKENS, ENDS))[1].abs().max() > 1e-3


@pytest.mark.parametrize("layout", ["openai", "open_clip", "inside", "transformers", "siglip", "siglip2"])
def test_every_layout_gives_the_same_tower(layout, tmp_path):
    tower = random_tower(SMALL_SIGLIP if layout.startswith("siglip") else SMALL_CLIP)
    path = tmp_path
    if layout == "openai":
        path = tmp_path / "a.safetensors"
        save_file({**as_open_clip(tower), **OPENAI}, path)
    elif layout in ("open_clip", "inside"):
        around = "module.text." if layout == "inside" else ""
        save_file(
            {around + k: v for k, v in as_open_clip(tower).items()}, path / "open_clip_model.safetensors"
        )
        text = {
            "context_length": 16,
            "vocab_size": SMALL_CLIP.vocabulary,
            "width": 128,
            "heads": 2,
            "layers": 2,
        }
        record = {"model_cfg": {"quick_gelu": True, "text_cfg": {**text, "mlp_ratio": 0.75}}}
        (path / "open_clip_config.json").write_text(json.dumps(record))
    else:
        save_transformers(path, tower)
    if layout == "siglip2":
        record = transformers_config(SMALL_SIGLIP)
        record["text_config"]["model_type"] = record["model_type"] = "siglip2"
        (path / "config.json").write_text(json.dumps(record))
    loaded = load_text_tower(path)
    assert loaded.module.config == tower.config
    assert torch.equal(loaded.module(TOKENS, ENDS), tower(TOKENS, ENDS))
    assert loaded.files[0].sha256


def without(tensors, *names):
    return {name: value for name, value in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {"visual.proj": t["visual.proj"]}, "wanted the text tower of a CLIP .* got none"),
        (lambda t: {**t, "text_projection.weight": torch.zeros(2)}, "a SigLIP in open_clip's names"),
        (lambda t: without(t, "text_projection"), "wanted text_projection with 2 axes; take the whole model"),
        (lambda t: without(t, "ln_final.bias"), "1 missing: ln_final.bias"),
        (
            lambda t: {**t, "transformer.resblocks.0.extra": torch.zeros(2)},
            "1 unexpected: transformer.resblocks.0.extra",
        ),
        (
            lambda t: without(t, *OPENAI),
            "do not show its activation; say activation=.quick_gelu. .--activation. for OpenAI",
        ),
    ],
    ids=["none", "siglip", "projection", "missing", "unexpected", "activation"],
)
def test_files_that_hold_no_such_tower_are_refused(change, says, tmp_path):
    tensors = {**as_open_clip(random_tower(SMALL_CLIP)), **OPENAI}
    save_file(change(tensors), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=says):
        load_text_tower(tmp_path / "a.safetensors")


def test_a_file_alone_takes_the_callers_activation(tmp_path):
    tower = random_tower(SMALL_CLIP)
    save_file(as_open_clip(tower), tmp_path / "a.safetensors")
    assert load_text_tower(tmp_path / "a.safetensors", "quick_gelu").module.config == SMALL_CLIP
    save_file({**as_open_clip(tower), **OPENAI}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="wanted activation=gelu, got quick_gelu; leave it out"):
        load_text_tower(tmp_path / "a.safetensors", "gelu")


def test_siglips_heads_are_not_guessed(tmp_path):
    save_file(as_transformers(random_tower(SMALL_SIGLIP)), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"how many heads .* give the directory with its config.json"):
        load_text_tower(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 3}, "says num_hidden_layers=3, the weights 2"),
        ({"hidden_act": "relu"}, "wanted hidden_act as one of quick_gelu"),
        ({"num_attention_heads": 7}, "divides into heads"),
        (
            {"model_type": "bert"},
            "wanted config.json to describe a text tower of clip, got model_type='bert'",
        ),
    ],
)
def test_configurations_that_contradict_the_weights_are_refused(change, says, tmp_path):
    save_transformers(tmp_path, random_tower(SMALL_CLIP))
    record = transformers_config(SMALL_CLIP)
    record["text_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=says):
        load_text_tower(tmp_path)


def test_what_clips_text_tower_does_not_do_is_refused(tmp_path):
    save_file(as_open_clip(random_tower(SMALL_CLIP)), tmp_path / "open_clip_model.safetensors")
    text = {
        "context_length": 16,
        "vocab_size": SMALL_CLIP.vocabulary,
        "width": 128,
        "layers": 2,
        "mlp_ratio": 0.75,
    }
    record = {"text_cfg": {**text, "heads": 2, "no_causal_mask": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="no_causal_mask=True asks for something"):
        load_text_tower(tmp_path)
