"""What weights do not show, from the JSON file beside them; and what contradicts them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import VIT_L_14_336, load_encoder
from tests.models import published
from tests.models.published import NARROW, as_transformers, prefixed, tower

WEIGHTS = tower()
BARE = replace(NARROW, embed_dim=NARROW.width)


@pytest.fixture
def vision(tmp_path):
    """A directory with a CLIPVisionModel, without its config.json."""
    save_file(as_transformers(WEIGHTS), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def open_clip(tmp_path):
    """A directory with an open_clip model, without its open_clip_config.json."""
    save_file(
        prefixed("visual.", WEIGHTS) | published.open_clip_text(), tmp_path / "open_clip_model.safetensors"
    )
    return tmp_path


def write(folder, name, record):
    published.write_json(folder / name, record)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("kind", ["clip_vision_model", "clip", "llava"])
def test_config_json_says_heads_and_activation(kind, quick_gelu, vision):
    record = published.clip_vision_config(replace(NARROW, activation="quick_gelu" if quick_gelu else "gelu"))
    if kind != "clip_vision_model":
        record = {"model_type": kind, "vision_config": record, "projection_dim": 24}
    write(vision, "config.json", record)
    loaded = load_encoder(vision)
    assert loaded.module.config == replace(BARE, activation="quick_gelu" if quick_gelu else "gelu")
    assert loaded.notes[0] == "heads=4: config.json"
    assert loaded.notes[1] == f"quick_gelu={quick_gelu}: config.json"


def test_what_config_json_leaves_out_is_the_default(tmp_path):
    # ViT-B/32 is the default of CLIPVisionConfig; transformers then writes a nearly empty vision_config.
    b32 = replace(NARROW, width=768, layers=12, heads=12, patch=32, image_size=224, embed_dim=768)
    torch.save(as_transformers(published.hollow(b32)), tmp_path / "pytorch_model.bin")
    write(
        tmp_path, "config.json", {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}}
    )
    assert load_encoder(tmp_path).module.config == b32


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_open_clip_config_json_says_heads_and_activation(quick_gelu, open_clip):
    config = replace(NARROW, activation="quick_gelu" if quick_gelu else "gelu")
    # The settings of training do not matter.
    write(open_clip, "open_clip_config.json", published.open_clip_config(config, patch_dropout=0.5))
    # Of transformers, for another file of the directory.
    write(open_clip, "config.json", {"model_type": "bert"})
    loaded = load_encoder(open_clip)
    assert loaded.module.config == config
    assert loaded.notes[:2] == (
        "heads=4: open_clip_config.json",
        f"quick_gelu={quick_gelu}: open_clip_config.json",
    )


def test_beside_a_file_named_alone_nothing_is_read(vision):
    write(vision, "config.json", {"model_type": "clip_vision_model"})
    with pytest.raises(CheckpointError, match=r"config.json: it says hidden_size=768, and the weights 32"):
        load_encoder(vision)
    loaded = load_encoder(vision / "model.safetensors", NARROW)
    assert [file.name for file in loaded.files] == ["model.safetensors"]


def test_a_llava_of_its_authors_says_whose_tower_it_has(tmp_path):
    rest = published.authors_llava_rest()
    hollow = published.hollow(VIT_L_14_336)
    # Only the names are needed: the check of the last tensor fails, after the activation was found.
    del hollow["ln_post.bias"]
    tensors = as_transformers(hollow, "model.vision_tower.vision_tower.vision_model.") | rest
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="do not show whether"):
        load_encoder(tmp_path)
    write(
        tmp_path,
        "config.json",
        {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"},
    )
    with pytest.raises(
        CheckpointError, match=r"activation='quick_gelu'.* 1 missing: .*post_layernorm.bias\. "
    ):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"num_hidden_layers": 4}, "num_hidden_layers=4, and the weights 3"),
        ({"image_size": 16}, "image_size=16, and the weights 12"),
        ({"intermediate_size": 64}, "intermediate_size=64, and the weights 128"),
        (
            {"hidden_act": "silu"},
            "wanted hidden_act as one of quick_gelu, gelu, gelu_pytorch_tanh, got 'silu'",
        ),
        ({"num_attention_heads": "4"}, "wanted num_attention_heads as a whole number of at least 1, got '4'"),
        ({"num_attention_heads": 5}, "multiple of heads=5"),
    ],
)
def test_a_config_json_that_does_not_fit_is_refused(changed, complaint, vision):
    write(vision, "config.json", published.clip_vision_config(**changed))
    with pytest.raises(CheckpointError, match=complaint):
        load_encoder(vision)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"layers": 4}, "layers=4, and the weights 3"),
        ({"mlp_ratio": 2.0}, "hidden=64, and the weights 128"),
        ({"mlp_ratio": 1e308}, "open_clip_config.json: "),
        ({"head_width": 64}, "head_width=64 does not divide the width, 32"),
        ({"head_width": 0}, "wanted head_width as a whole number"),
        # CLIPA: the same tensors, pooled otherwise.
        ({"pool_type": "avg"}, "pool_type='avg' asks for something"),
        ({"no_ln_pre": True}, "no_ln_pre=True asks for something"),
        ({"norm_kwargs": {"eps": 1e-6}}, "norm_kwargs="),
    ],
)
def test_an_open_clip_config_json_that_does_not_fit_is_refused(changed, complaint, open_clip):
    write(open_clip, "open_clip_config.json", published.open_clip_config(**changed))
    with pytest.raises(CheckpointError, match=complaint):
        load_encoder(open_clip)


@pytest.mark.parametrize("record", [[], {"vision_config": [1]}, {"vision_config": "clip"}])
def test_a_config_json_of_another_form_is_refused(record, vision):
    write(vision, "config.json", record)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_encoder(vision)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 8}, "heads=8, and config.json says 4"),
        ({"activation": "gelu"}, "quick_gelu=False, and config.json says True"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06, and config.json says 1e-05"),
    ],
)
def test_a_given_config_must_not_contradict_the_file(change, said, vision):
    write(vision, "config.json", published.clip_vision_config())
    assert load_encoder(vision, NARROW).module.config == BARE
    ((name, value),) = change.items()
    with pytest.raises(CheckpointError, match=f"the given config has {said}"):
        load_encoder(vision, replace(NARROW, **change))
    # The weights alone say neither.
    assert (
        getattr(load_encoder(vision / "model.safetensors", replace(NARROW, **change)).module.config, name)
        == value
    )


def test_quick_gelu_must_not_contradict_the_file(vision):
    write(vision, "config.json", published.clip_vision_config())
    assert load_encoder(vision, quick_gelu=True).module.config == BARE
    with pytest.raises(CheckpointError, match=r"caller says quick_gelu=False, and config.json says True"):
        load_encoder(vision, quick_gelu=False)


def test_openais_weights_are_not_loaded_with_another_activation(tmp_path):
    whole = prefixed("visual.", WEIGHTS) | published.open_clip_text() | published.openai_extras()
    torch.save(whole, tmp_path / "a.pt")
    assert load_encoder(tmp_path / "a.pt", NARROW).module.config == NARROW
    with pytest.raises(CheckpointError, match="quick_gelu=False, and a file of OpenAI's"):
        load_encoder(tmp_path / "a.pt", replace(NARROW, activation="gelu"))
