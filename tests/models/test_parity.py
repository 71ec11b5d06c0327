"""Loaded towers against the libraries that published them.

What is measured: the largest absolute difference of any element of an output, float32 on the CPU, random weights whose
outputs have a standard deviation of about 1; the same pixels, weights by way of a checkpoint file. Tests that need
open_clip or transformers are skipped by name where these are not installed.
"""

import json
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fsfast.models import VIT_B_16, VIT_L_14_336, load_encoder
from tests.models import families, published
from tests.models.published import NARROW, as_transformers, tower

# Largest seen: 2.4e-6 in small; 7.8e-6 for ViT-B/16 (values up to 17), 0 for ViT-L/14 at 336.
SMALL, REAL = 2e-5, 1e-4


@pytest.fixture
def open_clip():
    return pytest.importorskip("open_clip")


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def pixels(batch, config=NARROW, dtype=torch.float32):
    size = config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_near(got, want, limit):
    assert got.shape == want.shape
    # Large enough that a wrong output would be seen.
    assert 0.1 < want.std() < 10
    torch.testing.assert_close(got, want, rtol=0, atol=limit)


# open_clip.


def open_clip_model(open_clip, config):
    """A whole CLIP of open_clip with a small text tower."""
    vision = {
        "image_size": config.image_size,
        "layers": config.layers,
        "width": config.width,
        "head_width": config.width // config.heads,
        "patch_size": config.patch,
    }
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return open_clip.model.CLIP(config.embed_dim, vision, text, quick_gelu=config.activation == "quick_gelu")


def open_clip_outputs(visual, x):
    """Pooled output, tokens as returned, tokens of the last block and of the one before, class token left out."""
    seen = {}
    hooks = [
        visual.transformer.resblocks[-2].register_forward_hook(lambda *a: seen.update(penultimate=a[2])),
        visual.transformer.register_forward_hook(lambda *a: seen.update(raw=a[2])),
    ]
    visual.output_tokens = True
    with torch.no_grad():
        pooled, tokens = visual(x)
    for hook in hooks:
        hook.remove()
    # Tokens came first up to 2.24.
    raw, penultimate = (
        (seen[name] if len(seen[name]) == len(x) else seen[name].transpose(0, 1))[:, 1:]
        for name in ("raw", "penultimate")
    )
    return pooled, tokens, raw, penultimate


def check_open_clip(open_clip, config, whole, randomised, folder, limit, batch):
    """All outputs of an open_clip model, by way of a checkpoint of its image tower or of all of it."""
    model = randomised(open_clip_model(open_clip, config))
    save_file((model if whole else model.visual).state_dict(), folder / "a.safetensors")
    module = load_encoder(folder / "a.safetensors", config).module
    x = pixels(batch, config)
    pooled, tokens, raw, penultimate = open_clip_outputs(model.visual, x)
    assert_near(module(x), pooled[:, None], limit)
    assert_near(module(x, "tokens", False), raw, limit)
    assert_near(module(x, "penultimate"), penultimate, limit)
    normed = nn.functional.layer_norm(
        raw, raw.shape[-1:], model.visual.ln_post.weight, model.visual.ln_post.bias
    )
    assert_near(module(x, "tokens", True), normed, limit)
    # 2.23 began to apply ln_post to the tokens, too.
    version = tuple(int(part) for part in metadata.version("open_clip_torch").split(".")[:2])
    assert_near(module(x, "tokens", version >= (2, 23)), tokens, limit)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["whole model", "image tower"])
def test_outputs_equal_open_clips(open_clip, whole, quick_gelu, randomised, tmp_path):
    config = replace(NARROW, activation="quick_gelu" if quick_gelu else "gelu")
    check_open_clip(open_clip, config, whole, randomised, tmp_path, SMALL, batch=3)


@pytest.mark.slow
def test_outputs_of_vit_b_16_equal_open_clips(open_clip, randomised, tmp_path):
    check_open_clip(open_clip, VIT_B_16, True, randomised, tmp_path, REAL, batch=2)


def test_clipa_equals_open_clips(open_clip, randomised, tmp_path):
    """No normalisation before the blocks; the mean of the patch tokens, normalised afterwards."""
    config = replace(NARROW, activation="gelu", pre_norm=False, pooling="mean")
    vision = published.open_clip_config(config)["model_cfg"]["vision_cfg"]
    clipa = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    model = randomised(open_clip.model.CLIP(config.embed_dim, vision | clipa, text))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    published.write_json(tmp_path / "open_clip_config.json", published.open_clip_config(config, **clipa))
    module = load_encoder(tmp_path).module
    assert module.config == config
    x = pixels(3, config)
    assert_near(module(x), model.visual(x)[:, None], SMALL)


def test_names_are_those_of_open_clip(open_clip):
    model = open_clip_model(open_clip, NARROW)
    assert {k: tuple(t.shape) for k, t in model.visual.state_dict().items()} == published.tower_shapes(NARROW)
    beside = {name for name in model.state_dict() if not name.startswith("visual.")}
    assert {name.split(".")[0] for name in beside} <= {
        name.split(".")[0] for name in published.open_clip_text()
    } | {
        # A buffer of some versions.
        "attn_mask"
    }


# transformers.


def clip_vision_config(transformers, config):
    record = published.clip_vision_config(config)
    for name in ("architectures", "model_type"):
        del record[name]
    return transformers.CLIPVisionConfig(**record, projection_dim=config.embed_dim)


TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}


def clip_model(transformers, config):
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=TEXT | {"max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1},
            vision_config=clip_vision_config(transformers, config).to_dict(),
            projection_dim=config.embed_dim,
        )
    )


def llava_model(transformers, config):
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=clip_vision_config(transformers, config),
            text_config=transformers.LlamaConfig(**TEXT, num_key_value_heads=2),
            image_token_index=40,
        )
    )


def stored_names(folder):
    names = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_outputs_equal_transformers(transformers, quick_gelu, randomised, tmp_path):
    config = replace(NARROW, activation="quick_gelu" if quick_gelu else "gelu")
    model = randomised(transformers.CLIPVisionModel(clip_vision_config(transformers, config)))
    model.save_pretrained(tmp_path)
    # config.json says all that the weights do not show.
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == replace(config, embed_dim=config.width)
    x = pixels(3)
    want = model(x, output_hidden_states=True)
    assert_near(loaded.module(x, "penultimate"), want.hidden_states[-2][:, 1:], SMALL)
    assert_near(loaded.module(x, "tokens", False), want.last_hidden_state[:, 1:], SMALL)
    assert_near(loaded.module(x), want.pooler_output[:, None], SMALL)


@pytest.mark.slow
def test_outputs_of_vit_l_14_336_equal_transformers(transformers, randomised, tmp_path):
    model = randomised(transformers.CLIPVisionModel(clip_vision_config(transformers, VIT_L_14_336)))
    model.save_pretrained(tmp_path)
    module = load_encoder(tmp_path, VIT_L_14_336).module
    x = pixels(1, VIT_L_14_336)
    want = model(x, output_hidden_states=True)
    assert_near(module(x, "penultimate"), want.hidden_states[-2][:, 1:], REAL)
    assert_near(module(x, "tokens", False), want.last_hidden_state[:, 1:], REAL)


def test_projected_outputs_equal_transformers(transformers, randomised, tmp_path):
    model = randomised(transformers.CLIPVisionModelWithProjection(clip_vision_config(transformers, NARROW)))
    model.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == NARROW
    x = pixels(3)
    assert_near(loaded.module(x), model(x).image_embeds[:, None], SMALL)


@pytest.mark.parametrize("sharded", [True, False])
def test_the_tower_of_a_whole_clip_equals_transformers(transformers, sharded, randomised, tmp_path):
    model = randomised(clip_model(transformers, NARROW))
    model.save_pretrained(tmp_path, max_shard_size="20KB" if sharded else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == NARROW
    x = pixels(3)
    want = model.visual_projection(model.vision_model(x).pooler_output)
    assert_near(loaded.module(x), want[:, None], SMALL)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_the_tower_of_a_llava_equals_transformers(transformers, sharded, half, randomised, tmp_path):
    model = randomised(llava_model(transformers, NARROW))
    if half:
        model.half()
    model.save_pretrained(tmp_path, max_shard_size="20KB" if sharded else "1GB")
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == replace(NARROW, embed_dim=NARROW.width)
    assert ("cast to float32 from float16" in loaded.notes) == half
    # A property at the top in some versions, in `model` in others.
    inner = model if "vision_tower" in dict(model.named_children()) else model.model
    x = pixels(3)
    want = inner.vision_tower.float()(x, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert_near(loaded.module(x, "penultimate"), want, SMALL)


def test_names_are_those_of_transformers(transformers, tmp_path):
    new = int(transformers.__version__.split(".")[0]) >= 5
    vision = clip_vision_config(transformers, NARROW)
    llava_prefix = "vision_tower." if new else "vision_tower.vision_model."
    wanted = {
        "vision": (
            transformers.CLIPVisionModel(vision),
            as_transformers(tower(), "" if new else "vision_model."),
        ),
        "projected": (
            transformers.CLIPVisionModelWithProjection(vision),
            as_transformers(tower(), projection="visual_projection.weight"),
        ),
        "clip": (
            clip_model(transformers, NARROW),
            as_transformers(tower(), projection="visual_projection.weight"),
        ),
        "llava": (llava_model(transformers, NARROW), as_transformers(tower(), llava_prefix)),
    }
    beside = {name.split(".")[0] for name in published.transformers_text() | published.llava_rest()}
    for name, (model, names) in wanted.items():
        model.save_pretrained(tmp_path / name)
        stored = stored_names(tmp_path / name)
        assert names.keys() <= stored, name
        assert {other.split(".")[0] for other in stored - names.keys()} <= beside, name
    record = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert record["model_type"] == "llava"
    assert record["vision_config"]["model_type"] == "clip_vision_model"


# The other families of transformers.

FAMILIES = [name for name in families.FAMILIES if "authors" not in name and name not in families.ALONE]


def family_model(transformers, family):
    """A model of transformers by the settings that a small member's config.json has."""
    said = {k: v for k, v in families.settings(family).items() if k != "model_type"}
    kind, config = {
        "siglip_vision_model": ("SiglipVisionModel", "SiglipVisionConfig"),
        "dinov2": ("Dinov2Model", "Dinov2Config"),
        "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
        "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig"),
        "internvl_vision": ("InternVLVisionModel", "InternVLVisionConfig"),
    }[family.model_type]
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    pooled = {"vision_use_head": family.config.pooling == "map"} if "Siglip" in kind else {}
    registers = {"num_register_tokens": family.config.registers} if family.config.registers else {}
    return getattr(transformers, kind)(getattr(transformers, config)(**said, **pooled, **registers))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_member_of_the_family_equals_transformers(transformers, name, randomised, tmp_path):
    family = families.FAMILIES[name]
    config = family.config
    model = randomised(family_model(transformers, family))
    model.save_pretrained(tmp_path)
    assert stored_names(tmp_path) == families.shapes(family).keys()
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == config
    x = pixels(3, config)
    want = model(x, output_hidden_states=True)
    assert_near(loaded.module(x, "penultimate"), want.hidden_states[-2][:, config.prefix :], SMALL)
    # Where there is a last normalisation, theirs are after it.
    tokens = want.last_hidden_state[:, config.prefix :]
    assert_near(loaded.module(x, "tokens", config.final_norm), tokens, SMALL)
    if config.pooling != "none":
        assert_near(loaded.module(x), want.pooler_output[:, None], SMALL)


def test_positions_are_resized_as_transformers_does_it(transformers, randomised, tmp_path):
    family = families.FAMILIES["DINOv2"]
    model = randomised(family_model(transformers, family))
    model.save_pretrained(tmp_path)
    smaller = replace(family.config, image_size=8)
    module = load_encoder(tmp_path, smaller, resize_positions=True).module
    x = pixels(3, smaller)
    assert_near(module(x, "tokens", True), model(x).last_hidden_state[:, 1:], SMALL)


def test_dinov2_with_registers_equals_timms(randomised, tmp_path):
    timm = pytest.importorskip("timm")
    family = families.FAMILIES["DINOv2 with registers of timm"]
    config = replace(family.config, image_size=12)
    theirs = timm.models.vision_transformer.VisionTransformer(
        **{"img_size": 12, "patch_size": config.patch, "embed_dim": config.width, "depth": config.layers},
        **{"num_heads": config.heads, "mlp_ratio": config.mlp_ratio, "init_values": 1.0, "num_classes": 0},
        **{"reg_tokens": config.registers, "no_embed_class": True},
    )
    randomised(theirs)
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    assert {name: tuple(t.shape) for name, t in theirs.state_dict().items()} == families.shapes(
        family, config
    )
    module, x = load_encoder(tmp_path / "a.safetensors", config).module, pixels(3, config)
    with torch.no_grad():
        tokens = theirs.forward_features(x)
    torch.testing.assert_close(module(x, "tokens", True), tokens[:, config.prefix :], rtol=0, atol=SMALL)
    torch.testing.assert_close(module(x), tokens[:, :1], rtol=0, atol=SMALL)
