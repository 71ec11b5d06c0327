"""Image towers from every published layout and file format: each weight arrives, bit for bit, or nothing does."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import VIT_B_16, VIT_L_14, VisionTransformer, load_encoder
from tests.models import published
from tests.models.published import LAYOUTS, NARROW, WEIGHTS, as_transformers, prefixed, tower


def assert_holds(loaded, want, config=NARROW):
    """The module has exactly these weights; without a projection the identity stands for it."""
    got = loaded.module.state_dict()
    want = {name: tensor.float() for name, tensor in want.items()}
    if not loaded.projection:
        want["proj"] = torch.eye(config.width)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == torch.float32
        assert got[name].is_contiguous()
        assert torch.equal(got[name], tensor), name
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised(name, tmp_path):
    tensors, layout, projection = LAYOUTS[name]
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    loaded = load_encoder(path, NARROW)
    assert (loaded.layout, loaded.projection) == (layout, projection)
    assert_holds(loaded, {k: t for k, t in WEIGHTS.items() if projection or k != "proj"})
    assert loaded.module.config == (NARROW if projection else replace(NARROW, embed_dim=NARROW.width))


# File formats; each holds a CLIPModel, whose projection comes last and whose q, k and v may lie in different shards.

CLIP = as_transformers(WEIGHTS, projection="visual_projection.weight") | published.transformers_text()


def one_safetensors(folder):
    save_file(CLIP, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors", {"model.safetensors"}


def one_bin(folder):
    torch.save(CLIP, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin", {"pytorch_model.bin"}


def old_bin(folder):
    # Before torch 1.6 files were no zip archives; they cannot be mapped.
    torch.save(CLIP, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return folder / "pytorch_model.bin", {"pytorch_model.bin"}


def wrong_suffix(folder):
    # The kind is seen in the content.
    save_file(CLIP, folder / "weights.pt")
    return folder / "weights.pt", {"weights.pt"}


def sharded_safetensors(folder):
    shards = published.write_shards(folder, CLIP)
    return folder / "model.safetensors.index.json", {p.name for p in shards} | {
        "model.safetensors.index.json"
    }


def sharded_bin(folder):
    shards = published.write_shards(folder, CLIP, "bin", stem="pytorch_model")
    return folder / "pytorch_model.bin.index.json", {p.name for p in shards} | {
        "pytorch_model.bin.index.json"
    }


FORMATS = [one_safetensors, one_bin, old_bin, wrong_suffix, sharded_safetensors, sharded_bin]


@pytest.mark.parametrize("given", ["file", "directory"])
@pytest.mark.parametrize("write", FORMATS)
def test_every_file_format_is_read(write, given, tmp_path):
    path, names = write(tmp_path)
    # Not weights, and in every directory of the Hub.
    (tmp_path / "README.md").write_text("A model.")
    loaded = load_encoder(tmp_path if given == "directory" else path, NARROW)
    assert_holds(loaded, WEIGHTS)
    assert {file.name for file in loaded.files} == names


def test_in_a_directory_safetensors_come_first(tmp_path):
    other = tower(seed=1)
    torch.save(as_transformers(other, projection="visual_projection.weight"), tmp_path / "pytorch_model.bin")
    torch.save(prefixed("visual.", other), tmp_path / "open_clip_pytorch_model.bin")
    one_safetensors(tmp_path)
    assert_holds(load_encoder(tmp_path, NARROW), WEIGHTS)


def test_a_directory_may_hold_one_file_of_any_name(tmp_path):
    torch.save(WEIGHTS, tmp_path / "fare_eps_2.pt")
    assert_holds(load_encoder(tmp_path, NARROW), WEIGHTS)
    torch.save(WEIGHTS, tmp_path / "fare_eps_4.pt")
    with pytest.raises(
        CheckpointError, match=r"found fare_eps_2.pt, fare_eps_4.pt; give the path of the file"
    ):
        load_encoder(tmp_path, NARROW)


@pytest.mark.parametrize(
    "wrap",
    [
        # open_clip's training script.
        lambda w: {
            "epoch": 3,
            "name": "run",
            "state_dict": prefixed("module.visual.", w),
            "optimizer": {"lr": 0.1},
        },
        # TeCoA of RobustVLM.
        lambda w: {"vision_encoder_state_dict": w, "step": 20000},
        lambda w: {"model_state_dict": prefixed("module.", w), "epoch": 1},
        lambda w: {"model": {"state_dict": w}},
        # A rank's file of DeepSpeed.
        lambda w: {"module": w, "optimizer": None, "dp_world_size": 8},
        # Lightning.
        lambda w: {
            "pytorch-lightning_version": "2.1",
            "state_dict": prefixed("model.visual.", w),
            "loops": {},
        },
    ],
    ids=["open_clip", "TeCoA", "model_state_dict", "twice", "DeepSpeed", "Lightning"],
)
def test_a_wrapped_state_dict_is_found(wrap, tmp_path):
    torch.save(wrap(WEIGHTS), tmp_path / "checkpoint.pt")
    assert_holds(load_encoder(tmp_path / "checkpoint.pt", NARROW), WEIGHTS)


# Provenance, precision, memory.


def test_the_files_that_were_read_are_hashed(tmp_path):
    sharded_safetensors(tmp_path)
    published.write_json(tmp_path / "config.json", published.clip_vision_config())
    loaded = load_encoder(tmp_path)
    for file in loaded.files:
        content = (tmp_path / file.name).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert len(loaded.files) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_and_said(dtype, tmp_path):
    stored = {name: tensor.to(dtype) for name, tensor in WEIGHTS.items()}
    save_file(stored, tmp_path / "a.safetensors")
    loaded = load_encoder(tmp_path / "a.safetensors", NARROW)
    assert_holds(loaded, stored)
    assert f"cast to float32 from {str(dtype).removeprefix('torch.')}" in loaded.notes
    # Mixed, as OpenAI's files are: norms in float32.
    mixed = {name: WEIGHTS[name] if "ln_" in name else tensor for name, tensor in stored.items()}
    save_file(mixed, tmp_path / "b.safetensors")
    assert_holds(load_encoder(tmp_path / "b.safetensors", NARROW), mixed)


@pytest.mark.parametrize("write", [one_safetensors, one_bin])
def test_the_weights_do_not_hang_on_the_file(write, tmp_path):
    path, _ = write(tmp_path)
    loaded = load_encoder(path, NARROW)
    # In place, as a mapping would see it.
    with open(path, "r+b") as handle:
        handle.write(b"\xff" * path.stat().st_size)
    assert_holds(loaded, WEIGHTS)


def test_a_tower_without_a_projection_pools_like_transformers(tmp_path):
    save_file(as_transformers(WEIGHTS), tmp_path / "a.safetensors")
    loaded = load_encoder(tmp_path / "a.safetensors", NARROW)
    module, x = loaded.module, torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    whole = VisionTransformer(NARROW).eval()
    whole.load_state_dict(WEIGHTS)
    for output, ln_post in (("penultimate", None), ("tokens", True), ("tokens", False)):
        assert torch.equal(module(x, output, ln_post), whole(x, output, ln_post))
    # pooler_output times the projection is the pooled output.
    torch.testing.assert_close(module(x) @ whole.proj, whole(x), rtol=0, atol=1e-5)
    assert any("identity" in note for note in loaded.notes)


# Sizes of real towers, from files that are small because every tensor repeats one number.


def test_openais_file_needs_no_configuration(tmp_path):
    hollow = published.hollow(VIT_B_16)
    whole = prefixed("visual.", hollow) | published.open_clip_text() | published.openai_extras()
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in whole.items()}, tmp_path / "a.pt"
    )
    loaded = load_encoder(tmp_path / "a.pt")
    assert loaded.module.config == VIT_B_16
    assert loaded.notes[0] == "heads=12: as in every CLIP of width 768 with 12 blocks"
    assert loaded.notes[1].startswith("quick_gelu=True: a file of OpenAI's")
    for name, tensor in loaded.module.state_dict().items():
        assert tensor.flatten()[-1] == hollow[name].flatten()[0].half(), name


def test_where_nobody_knows_the_activation_it_must_be_said(tmp_path):
    torch.save(published.hollow(VIT_B_16), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"QuickGELU; say quick_gelu=True for OpenAI's .* quick_gelu=False"
    ):
        load_encoder(tmp_path / "a.pt")
    loaded = load_encoder(tmp_path / "a.pt", quick_gelu=False)
    assert loaded.module.config == replace(VIT_B_16, activation="gelu")
    assert "quick_gelu=False: the caller" in loaded.notes


def test_a_tower_without_its_last_block_is_not_taken_for_a_smaller_one(tmp_path):
    # As tools for LLaVA leave it, which takes the output of the block before the last.
    torch.save(published.hollow(replace(VIT_L_14, layers=23)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"width 1024 with 23 blocks .* give a ViTConfig"):
        load_encoder(tmp_path / "a.pt", quick_gelu=True)
    with pytest.raises(
        CheckpointError, match=r"wanted 296 tensors.* 12 missing: transformer.resblocks.23.ln_1.weight"
    ):
        load_encoder(tmp_path / "a.pt", VIT_L_14)


def test_the_callers_words_must_agree(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"wanted quick_gelu as in config \(True\), got False"):
        load_encoder(tmp_path / "a.safetensors", NARROW, quick_gelu=False)
    assert load_encoder(tmp_path / "a.safetensors", NARROW, quick_gelu=True).module.config == NARROW
