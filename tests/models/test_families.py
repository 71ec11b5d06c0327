"""SigLIP, DINOv2, DINOv3, InternViT: read from their own names and settings, and computed as written down."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import VisionTransformer, load_encoder
from tests.models import published
from tests.models.families import ALONE, DINOV2, FAMILIES, SIGLIP, reference, settings, weights
from tests.models.published import prefixed


def write(folder, family, tensors=None, **said):
    save_file(tensors or weights(family), folder / "model.safetensors")
    published.write_json(folder / "config.json", settings(family) | said)
    return folder


def pixels(config):
    size = config.image_size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_published_tower_is_known_by_its_own_files_and_computes_the_reference(name, tmp_path):
    family = FAMILIES[name]
    config, x = family.config, pixels(family.config)
    given = config if name in ALONE else None
    loaded = load_encoder(write(tmp_path, family), given)
    module = loaded.module
    assert module.config == config
    assert loaded.layout == ("timm" if given else "transformers")
    penultimate, tokens, pooled = reference(family, weights(family), x)
    assert 0.1 < tokens.std() < 10
    torch.testing.assert_close(module(x, "penultimate").double(), penultimate, rtol=0, atol=2e-5)
    torch.testing.assert_close(module(x, "tokens", False).double(), tokens, rtol=0, atol=2e-5)
    if pooled is not None:
        torch.testing.assert_close(module(x).double(), pooled, rtol=0, atol=2e-5)


def test_class_tokens_without_positions_stay_so_at_another_resolution(tmp_path):
    """timm's DINOv2 with registers: of 3×3 patches for 2×2."""
    family = FAMILIES["DINOv2 with registers of timm"]
    tensors = weights(family)
    save_file(tensors, tmp_path / "a.safetensors")
    smaller = replace(family.config, image_size=8)
    got = load_encoder(tmp_path / "a.safetensors", smaller, resize_positions=True).module.positional_embedding
    square = tensors["pos_embed"].reshape(1, 3, 3, 32).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(square, size=(2, 2), mode="bicubic", align_corners=False)
    assert not got[0].any()
    torch.testing.assert_close(got[1:], wanted.permute(0, 2, 3, 1).reshape(4, 32), rtol=0, atol=1e-6)


# Every flag at least once.
@pytest.mark.parametrize("name", ["SigLIP", "DINOv3 H+", "InternViT with RMSNorm"])
def test_a_member_exports(name, tmp_path, assert_exports):
    family = FAMILIES[name]
    module = load_encoder(write(tmp_path, family)).module
    output = "tokens" if family.config.pooling == "none" else "pooled"
    features = module.features(output, False if output == "tokens" else None)
    x = pixels(family.config)
    assert_exports(features, torch.cat([x, x.flip(0)])[:5])


@pytest.mark.parametrize("name", ["SigLIP", "DINOv3", "InternViT"])
def test_the_tower_of_a_whole_model_is_found(name, tmp_path):
    """SiglipModel, and models around a tower, whose settings stand in vision_config."""
    family = FAMILIES[name]
    rest = {"text_model.x": torch.zeros(2), "logit_scale": torch.zeros(1), "language_model.x": torch.zeros(2)}
    tensors = prefixed("vision_model." if name == "SigLIP" else "model.vision_tower.", weights(family))
    save_file(tensors | rest, tmp_path / "model.safetensors")
    published.write_json(tmp_path / "config.json", {"model_type": "x", "vision_config": settings(family)})
    assert load_encoder(tmp_path).module.config == family.config


def test_siglip_inside_open_clip_wants_heads_and_activation_to_be_said(tmp_path):
    """timm's names; timm and the authors of SigLIP differ about its GELU, and neither stands in the file."""
    inside = {
        **{"patch": "patch_embed.proj", "positions": "pos_embed", "block": "blocks.{}.", "norm1": "norm1"},
        **{
            "norm2": "norm2",
            "norm": "norm",
            "qkv": "attn.qkv",
            "o": "attn.proj",
            "in": "mlp.fc1",
            "out": "mlp.fc2",
        },
    }
    family = replace(FAMILIES["SigLIP without its head"], names=inside)
    head = weights(FAMILIES["SigLIP"])
    into_three, bias = head["head.attention.in_proj_weight"], head["head.attention.in_proj_bias"]
    tensors = weights(family) | {
        "attn_pool.latent": head["head.probe"],
        **{"attn_pool.q.weight": into_three[:32].clone(), "attn_pool.kv.weight": into_three[32:].clone()},
        **{"attn_pool.q.bias": bias[:32].clone(), "attn_pool.kv.bias": bias[32:].clone()},
        **{
            f"attn_pool.{theirs}.{kind}": head[f"head.{ours}.{kind}"]
            for theirs, ours in (
                *(("proj", "attention.out_proj"), ("norm", "layernorm")),
                *(("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")),
            )
            for kind in ("weight", "bias")
        },
    }
    path = tmp_path / "open_clip_model.safetensors"
    save_file(prefixed("visual.trunk.", tensors) | prefixed("text.", {"x": torch.zeros(2)}), path)
    with pytest.raises(CheckpointError, match="attention heads are not known; give a ViTConfig"):
        load_encoder(path)
    module, x = load_encoder(path, SIGLIP).module, pixels(SIGLIP)
    named_as_timm = {name: t for name, t in tensors.items() if not name.startswith("attn_pool.")}
    as_one = {name: t for name, t in head.items() if name.startswith("head.")}
    whole = replace(FAMILIES["SigLIP"], names=inside | {"head": "head."})
    _, _, pooled = reference(whole, named_as_timm | as_one, x)
    torch.testing.assert_close(module(x).double(), pooled, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "said", "complaint"),
    [
        ("DINOv2", {"num_hidden_layers": 3}, "num_hidden_layers=3, and the weights 2"),
        ("DINOv2", {"image_size": 28}, "image_size=28, and the weights 12"),
        ("DINOv2", {"use_swiglu_ffn": True}, "it says gated MLPs, and the weights have no gates"),
        ("DINOv3 H+", {"use_gated_mlp": False}, "it says no gated MLPs, and the weights have gates"),
        ("SigLIP", {"hidden_act": "relu"}, "wanted hidden_act as one of"),
        ("InternViT", {"image_size": [12, 16]}, "wanted image_size as a whole number"),
        ("DINOv2", {"layer_norm_eps": "1e-6"}, "wanted layer_norm_eps as a number, got '1e-6'"),
        ("DINOv3", {"rope_theta": {}}, "wanted rope_theta as a number, got {}"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(name, said, complaint, tmp_path):
    with pytest.raises(CheckpointError, match=complaint):
        load_encoder(write(tmp_path, FAMILIES[name], **said))


@pytest.mark.parametrize("name", ["DINOv2", "DINOv3"])
def test_a_tower_that_lacks_its_last_normalisation_is_refused(name, tmp_path):
    """Without settings that say what such a tower has, it would be another member of the family."""
    family = FAMILIES[name]
    tensors = weights(family)
    for kind in ("weight", "bias"):
        del tensors[f"{family.names['norm']}.{kind}"]
    with pytest.raises(CheckpointError, match="2 missing"):
        load_encoder(write(tmp_path, family, tensors))


def test_a_clip_in_the_place_of_a_dino_is_refused(tmp_path):
    torch.save(published.tower(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.bias"):
        load_encoder(tmp_path / "a.pt", DINOV2)


def test_clipa_is_known_by_open_clips_settings(tmp_path):
    """No normalisation before the blocks, the mean of the patch tokens, ln_post after it."""
    config = replace(published.NARROW, activation="gelu", pre_norm=False, pooling="mean")
    tensors = {name: w for name, w in published.tower().items() if "ln_pre" not in name}
    save_file(prefixed("visual.", tensors), tmp_path / "open_clip_model.safetensors")
    said = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    published.write_json(tmp_path / "open_clip_config.json", published.open_clip_config(config, **said))
    module = load_encoder(tmp_path).module
    assert module.config == config
    x = pixels(config)
    mean = module(x, "tokens", False).mean(1, keepdim=True)
    torch.testing.assert_close(module(x), module.ln_post(mean) @ module.proj, rtol=0, atol=1e-5)


def test_layer_scale_of_open_clip_is_read_off_the_weights(tmp_path):
    """As ViT-M-16-alt has it."""
    scales = {
        f"transformer.resblocks.{i}.ls_{j}.gamma": torch.full((32,), 0.5) for i in range(3) for j in (1, 2)
    }
    save_file(prefixed("visual.", published.tower() | scales), tmp_path / "open_clip_model.safetensors")
    said = published.open_clip_config(ls_init_value=1e-4)
    published.write_json(tmp_path / "open_clip_config.json", said)
    loaded = load_encoder(tmp_path)
    assert loaded.module.config == replace(published.NARROW, layer_scale=True)
    assert loaded.module.transformer.resblocks[2].ls_2.gamma.eq(0.5).all()


# Sizes of open_clip's own towers: width, layers, head width, patch, image size, hidden.
OPEN_CLIP = {
    "ViT-S-16": (384, 12, 64, 16, 224, 1536),
    "ViT-M-32": (512, 12, 64, 32, 224, 2048),
    "ViT-B-16-plus-240": (896, 12, 64, 16, 240, 3584),
    "ViT-L-16-320": (1024, 24, 64, 16, 320, 4096),
    "ViT-H-14-378": (1280, 32, 80, 14, 378, 5120),
    "ViT-g-14": (1408, 40, 88, 14, 224, 6144),
    "ViT-bigG-14": (1664, 48, 104, 14, 224, 8192),
    "ViT-e-14": (1792, 56, 112, 14, 224, 15360),
}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_every_size_of_open_clip_is_read_off_its_files(name, tmp_path):
    width, layers, head_width, patch, image_size, hidden = OPEN_CLIP[name]
    ratio = hidden // width if hidden % width == 0 else hidden / width
    config = replace(
        published.NARROW,
        **{"width": width, "layers": layers, "heads": width // head_width, "patch": patch},
        **{"image_size": image_size, "mlp_ratio": ratio, "activation": "gelu"},
    )
    torch.save(prefixed("visual.", published.hollow(config)), tmp_path / "open_clip_pytorch_model.bin")
    # As open_clip writes the ratios of g, bigG and e.
    said = published.open_clip_config(config, mlp_ratio=round(ratio + 5e-5, 4) if ratio != 4 else 4)
    published.write_json(tmp_path / "open_clip_config.json", said)
    assert load_encoder(tmp_path, values=False).module.config == config


def test_the_record_of_a_configuration_is_read_again(tmp_path):
    for family in FAMILIES.values():
        record = json.loads(json.dumps(family.config.to_record()))
        assert type(family.config).from_record(record) == family.config


def test_the_record_of_a_clip_is_what_it_always_was():
    """Engines of before are read, and the same tower gives the same engine."""
    record = {
        **{
            "width": 32,
            "layers": 3,
            "heads": 4,
            "patch": 4,
            "image_size": 12,
            "embed_dim": 24,
            "mlp_ratio": 4,
        },
        **{"quick_gelu": True, "stem": ()},
    }
    assert list(published.NARROW.to_record().items()) == list(record.items())
    assert type(published.NARROW).from_record(record) == published.NARROW
    plain = replace(published.NARROW, activation="gelu")
    assert plain.to_record() == record | {"quick_gelu": False}
    assert type(plain).from_record(plain.to_record()) == plain


@pytest.mark.parametrize(
    ("config", "change", "complaint"),
    [
        (SIGLIP, {"pooling": "cls"}, "wants class_token=True"),
        (SIGLIP, {"embed_dim": 16}, "wanted embed_dim=32"),
        (DINOV2, {"final_norm": False}, "wants final_norm=True"),
        (DINOV2, {"activation": "relu"}, "wanted activation as one of"),
        (DINOV2, {"norm": "batch"}, "wanted norm as one of"),
        (DINOV2, {"biases": ("k", "q")}, "in this order"),
        (DINOV2, {"mlp_ratio": float("inf")}, "wanted mlp_ratio"),
        (DINOV2, {"registers": -1}, "registers of at least 0"),
        (DINOV2, {"rope_theta": 0.0}, "rope_theta above 0"),
        (DINOV2, {"rope_theta": 1.0, "heads": 16}, "a multiple of 4 channels"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(config, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(config, **change)


def test_outputs_that_a_tower_has_not_are_refused():
    with torch.device("meta"):
        tower = VisionTransformer(FAMILIES["InternViT"].config)
    with pytest.raises(ValueError, match="no pooled output"):
        tower.features("pooled")
    with pytest.raises(ValueError, match="say ln_post=False"):
        tower.features("tokens", True)
