"""Weights that are not those of a tower: one report of all of it, and nothing is loaded in part."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.models import load_encoder
from tests.models import published
from tests.models.published import as_transformers, prefixed, tower
from tests.models.refusals import refusal

WEIGHTS = tower()


def changed(change):
    weights = prefixed("visual.", tower()) | published.open_clip_text()
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        (lambda w: w.pop("visual.proj"), ["1 missing: visual.proj."]),
        (lambda w: w.pop("visual.class_embedding"), ["1 missing: visual.class_embedding."]),
        (
            lambda w: [w.pop(name) for name in list(w) if ".resblocks.1." in name],
            ["12 missing: visual.transformer.resblocks.1.ln_1.weight, ", ", …. Remedy"],
        ),
        # A layer scale would change what the tower computes; so would something that nobody knows beside it.
        (
            lambda w: w.update({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(32)}),
            ["1 unexpected: visual.transformer.resblocks.0.ls_1.gamma."],
        ),
        (lambda w: w.update({"adapter.weight": torch.ones(32)}), ["1 unexpected: adapter.weight."]),
        (
            lambda w: w.update({"visual.conv1.weight": torch.ones(32, 3, 8, 8)}),
            ["1 of another shape: visual.conv1.weight (wanted 32×3×4×4, got 32×3×8×8)."],
        ),
        (
            lambda w: w.update({"visual.proj": torch.ones(24, 32), "visual.x": w.pop("visual.ln_pre.bias")}),
            [
                "1 missing: visual.ln_pre.bias; 1 unexpected: visual.x; 1 of another shape: visual.proj (wanted 32×24"
            ],
        ),
    ],
    ids=["proj", "class", "block", "layer scale", "adapter", "patch", "all kinds"],
)
def test_what_does_not_fit_is_reported_at_once(change, complaints, tmp_path):
    save_file(changed(change), tmp_path / "a.safetensors")
    message = refusal(tmp_path / "a.safetensors")
    assert "wanted 44 tensors, those of ViTConfig(width=32, layers=3" in message
    assert "named as in open_clip under 'visual.'" in message
    for complaint in complaints:
        assert complaint in message
    assert "Remedy: choose weights of this architecture, or give the ViTConfig" in message


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("conv1.weight", None, "an image tower without visual.conv1.weight"),
        ("conv1.weight", (32, 3, 4), "wanted visual.conv1.weight with 4 axes"),
        ("positional_embedding", (9, 32), "got 8 patches"),
        ("positional_embedding", (1, 32), "got 0 patches"),
        # ViT-g and bigG have MLPs of 4.36 and 4.92 times the width: their heads are not known.
        ("transformer.resblocks.0.mlp.c_fc.weight", (139, 32), "MLPs of 139 is not one of CLIP's"),
    ],
)
def test_sizes_that_no_tower_has_are_refused(name, shape, complaint, tmp_path):
    weights = prefixed("visual.", tower())
    del weights[f"visual.{name}"]
    if shape:
        weights[f"visual.{name}"] = torch.zeros(shape)
    save_file(weights, tmp_path / "a.safetensors")
    assert complaint in refusal(tmp_path / "a.safetensors", config=None)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["visual.conv1.weight", "visual.attnpool.positional_embedding"], "a CLIP with a ResNet"),
        (
            ["cls_token", "pos_embed", "patch_embed.proj.weight"],
            "timm's names that is no DINOv2 or SigLIP",
        ),
        (["visual.trunk.patch_embed.proj.weight", "text.x"], "around a tower of timm"),
        (
            ["model.embed_tokens.weight", "lm_head.weight"],
            "for LLaVA-1.5 as its authors published it, load openai/clip-",
        ),
        (
            [
                "visual.attn_pool.query",
                "visual.class_embedding",
                "visual.conv1.weight",
                "visual.ln_pre.weight",
            ],
            "got a CoCa",
        ),
        (["visual.trunk.stem.0.weight", "text.x"], "around a ConvNeXt"),
        (["a", "b"], "got 2 tensors of something else (a, b, …)"),
    ],
    ids=["resnet", "timm", "open_clip around timm", "language", "coca", "convnext", "other"],
)
def test_other_architectures_are_named(names, complaint, tmp_path):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    assert complaint in refusal(tmp_path / "a.safetensors", config=None)


def test_siglip_is_not_taken_for_the_clip_that_is_asked_for(tmp_path):
    weights = as_transformers(WEIGHTS)
    for name in list(weights):
        if "class_embedding" in name or "pre_layrnorm" in name:
            del weights[name]
    weights["vision_model.embeddings.patch_embedding.bias"] = torch.zeros(32)
    save_file(weights, tmp_path / "a.safetensors")
    message = refusal(tmp_path / "a.safetensors")
    assert "3 missing: vision_model.embeddings.class_embedding, vision_model.pre_layrnorm.weight, " in message
    assert "1 unexpected: vision_model.embeddings.patch_embedding.bias" in message


def test_layers_that_were_not_merged_are_named(tmp_path):
    """LoRA inside the model, and alone."""
    adapter = {f"base_model.model.visual.x.lora_{part}.default.weight": torch.ones(2, 2) for part in "AB"}
    for weights, what in (
        (adapter | prefixed("base_model.model.visual.", WEIGHTS), "LoRA layers that were not merged"),
        (adapter, "a LoRA adapter without its model"),
    ):
        save_file(weights, tmp_path / "a.safetensors")
        message = refusal(tmp_path / "a.safetensors")
        assert what in message
        assert "merge_and_unload()" in message
    # Those of a language model change nothing in the tower.
    elsewhere = {"language_model.x.lora_A.default.weight": torch.ones(2, 2)}
    save_file(elsewhere | prefixed("vision_tower.", as_transformers(WEIGHTS, "")), tmp_path / "a.safetensors")
    assert not load_encoder(tmp_path / "a.safetensors", published.NARROW).projection


@pytest.mark.parametrize("config", [None, published.NARROW])
def test_tensors_that_were_not_gathered_are_named(config, tmp_path):
    """As DeepSpeed's ZeRO-3 leaves them."""
    empty = {name: torch.zeros(0) for name in as_transformers(WEIGHTS)}
    torch.save(empty | {"lm_head.weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path / "pytorch_model.bin", config=config)
    assert "tensors without elements" in message
    assert "zero_to_fp32.py" in message


def test_positions_for_another_resolution_are_named_and_resized_where_that_is_asked_for(tmp_path):
    """Of 3×3 patches for 2×2 and 5×5; the class token's stays."""
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    smaller = replace(published.NARROW, image_size=8)
    message = refusal(tmp_path / "a.safetensors", config=smaller)
    assert "wanted positions for 2×2 patches (8 pixels), got those for 3×3 (12 pixels)" in message
    assert "resize_positions" in message
    loaded = load_encoder(tmp_path / "a.safetensors", smaller, resize_positions=True)
    stored, got = WEIGHTS["positional_embedding"], loaded.module.positional_embedding
    assert torch.equal(got[0], stored[0])
    square = stored[1:].reshape(1, 3, 3, 32).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(square, size=(2, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(got[1:], wanted.permute(0, 2, 3, 1).reshape(4, 32), rtol=0, atol=1e-6)
    assert "positions resized from 3×3 to 2×2, bicubic" in loaded.notes
    # Other patches make other numbers, too, and are another network.
    weights = WEIGHTS | {"conv1.weight": torch.ones(32, 3, 6, 6)}
    save_file(weights, tmp_path / "b.safetensors")
    assert "conv1.weight (wanted 32×3×4×4, got 32×3×6×6)" in refusal(
        tmp_path / "b.safetensors", config=smaller
    )
    # Those that fit stay, bit for bit, and nothing is said of them.
    same = load_encoder(tmp_path / "a.safetensors", published.NARROW, resize_positions=True)
    assert torch.equal(same.module.positional_embedding, stored)
    assert not any("resized" in note for note in same.notes)


@pytest.mark.parametrize("name", ["visual.\x1b[2Jx", "a\nb", "\u202e", "x" * 501])
def test_names_that_cannot_be_shown_are_refused(name, tmp_path):
    save_file(WEIGHTS | {name: torch.zeros(1)}, tmp_path / "a.safetensors")
    assert f"got {name[:40]!r}; the file is damaged" in refusal(tmp_path / "a.safetensors")


def test_two_towers_are_refused(tmp_path):
    save_file(prefixed("visual.", WEIGHTS) | prefixed("second.", tower(seed=1)), tmp_path / "a.safetensors")
    assert "found 2, under 'second.' and 'visual.'" in refusal(tmp_path / "a.safetensors")


def test_a_clip_without_its_projection_is_refused(tmp_path):
    save_file(as_transformers(WEIGHTS) | published.transformers_text(), tmp_path / "a.safetensors")
    assert "1 missing: visual_projection.weight" in refusal(tmp_path / "a.safetensors")


# Values.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_values_that_are_not_finite_are_refused(value, form, tmp_path):
    weights = tower()
    weights["transformer.resblocks.2.mlp.c_fc.weight"][7, 5] = value
    path = tmp_path / f"a.{form}"
    save_file(weights, path) if form == "safetensors" else torch.save(weights, path)
    assert "1 of 4096 values of transformer.resblocks.2.mlp.c_fc.weight are NaN or infinite" in refusal(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_refused(dtype, tmp_path):
    weights = tower()
    weights["proj"] = torch.ones(weights["proj"].shape).to(dtype)
    torch.save(weights, tmp_path / "a.pt")
    assert f"wanted proj as float16, bfloat16, float32 or float64, got {dtype}" in refusal(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_sparse_tensors_are_refused(tmp_path):
    torch.save(WEIGHTS | {"proj": WEIGHTS["proj"].to_sparse()}, tmp_path / "a.pt")
    assert "wanted proj as float16" in refusal(tmp_path / "a.pt")
