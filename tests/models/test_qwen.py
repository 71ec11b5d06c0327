"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: read from their own names and settings at one size, and computed as written down."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import VisionTransformer, load_encoder
from tests.models import published
from tests.models.published import prefixed
from tests.models.qwen import QWEN2_5, QWEN3, SIZE, TOWERS, reference, weights


def write(folder, name, **said):
    """A whole model as it is published: the tower under visual., its settings in vision_config."""
    tower = TOWERS[name]
    prefix = "model.visual." if name == "Qwen3-VL" else "visual."
    rest = {"lm_head.weight": torch.zeros(2), "model.language_model.norm.weight": torch.zeros(2)}
    save_file(prefixed(prefix, weights(tower)) | rest, folder / "model.safetensors")
    record = {"model_type": tower.settings["model_type"], "vision_config": tower.settings | said}
    published.write_json(folder / "config.json", record)
    return folder


def pixels(count):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
def test_a_published_tower_is_known_by_its_own_files_and_computes_the_reference(name, tmp_path):
    tower, x = TOWERS[name], pixels(2)
    module = load_encoder(write(tmp_path, name), image_size=SIZE).module
    assert module.config == tower.config
    tokens, merged = (
        torch.stack(each) for each in zip(*(reference(tower, weights(tower), one) for one in x), strict=True)
    )
    assert 0.1 < merged.std() < 10
    assert merged.shape[1:] == tower.config.feature_shape("merged")
    torch.testing.assert_close(module(x, "merged").double(), merged, rtol=0, atol=2e-5)
    torch.testing.assert_close(module(x, "tokens", False).double(), tokens, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "Qwen3-VL"])
def test_a_tower_exports(name, tmp_path, assert_exports):
    module = load_encoder(write(tmp_path, name), image_size=SIZE).module
    assert_exports(module.features("merged"), pixels(5))


def test_taps_leave_no_feature_out(tmp_path):
    """What DeepStack hands to the language model besides the tokens is in the smoothed feature."""
    module = load_encoder(write(tmp_path, "Qwen3-VL"), image_size=SIZE).module
    with torch.no_grad():
        before = module(pixels(1), "merged")
        module.deepstack[1].c_proj.bias += 1
        after = module(pixels(1), "merged")
    assert (before != after).any(2)[0].tolist() == [False] * 32 + [True] * 16


def test_the_size_is_said_and_never_guessed(tmp_path):
    folder = write(tmp_path, "Qwen2.5-VL")
    with pytest.raises(CheckpointError, match="takes images of any size; say the one"):
        load_encoder(folder)
    with pytest.raises(CheckpointError, match="wanted image_size as a multiple of 16 pixels"):
        load_encoder(folder, image_size=24)
    assert load_encoder(folder, image_size=48, values=False).module.config == replace(QWEN2_5, image_size=48)
    with pytest.raises(ValueError, match=r"wanted image_size as in config \(32\), got 48"):
        load_encoder(folder, QWEN2_5, image_size=48)


@pytest.mark.parametrize(
    ("name", "said", "complaint"),
    [
        ("Qwen2.5-VL", {"depth": 4}, "depth=4, and the weights 3"),
        ("Qwen2.5-VL", {"hidden_size": 64}, "width=64, and the weights 32"),
        ("Qwen2.5-VL", {"fullatt_block_indexes": [7]}, "full_layers as indices of 3 blocks"),
        ("Qwen2.5-VL", {"fullatt_block_indexes": 7}, "fullatt_block_indexes as a list of whole numbers"),
        ("Qwen2.5-VL", {"temporal_patch_size": 4}, "temporal_patch_size=4, and the weights 2"),
        ("Qwen2-VL", {"hidden_act": "relu"}, "wanted hidden_act as one of"),
        ("Qwen3-VL", {"deepstack_visual_indexes": [0]}, r"=\[0\], and the weights have 2 mergers"),
        ("Qwen3-VL", {"num_position_embeddings": 49}, "=49, and the weights 36"),
        ("Qwen3-VL", {"spatial_merge_size": 3}, "merge=3, and the weights 2"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(name, said, complaint, tmp_path):
    with pytest.raises(CheckpointError, match=complaint):
        load_encoder(write(tmp_path, name, **said), image_size=SIZE)


def test_settings_that_contradict_the_given_configuration_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has taps=\(0, 1\), and config.json says \(0, 2\)"):
        load_encoder(write(tmp_path, "Qwen3-VL"), replace(QWEN3, taps=(0, 1)))


def test_without_its_settings_the_heads_are_not_known(tmp_path):
    write(tmp_path, "Qwen3-VL")
    with pytest.raises(CheckpointError, match="attention heads are not known"):
        load_encoder(tmp_path / "model.safetensors", image_size=SIZE)


def test_the_record_of_a_configuration_is_read_again():
    for tower in TOWERS.values():
        record = json.loads(json.dumps(tower.config.to_record()))
        assert type(tower.config).from_record(record) == tower.config


@pytest.mark.parametrize(
    ("config", "change", "complaint"),
    [
        (QWEN3, {"class_token": True}, "want class_token=False"),
        (QWEN3, {"merge": 1}, "without a projection, wanted embed_dim=32"),
        (QWEN3, {"merge": 1, "embed_dim": 32}, "taps wants merge"),
        (QWEN3, {"taps": (2, 0)}, "wanted taps as indices of 4 blocks, ascending"),
        (QWEN3, {"projection": True}, "merge wants pooling='none', projection=False"),
        (QWEN3, {"image_size": 36}, "wanted image_size as a multiple of 8 pixels"),
        (QWEN2_5, {"window": 0}, "full_layers wants window"),
        (QWEN2_5, {"window": 3}, "multiple of 24 pixels"),
        (QWEN2_5, {"rope_grid": "middle"}, "wanted rope_grid as one of"),
        (QWEN2_5, {"window": -1}, "window of at least 0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(config, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(config, **change)


def test_a_tower_without_a_merger_has_no_merged_output():
    with torch.device("meta"), pytest.raises(ValueError, match=r"no merger \(merge=1\)"):
        VisionTransformer(replace(QWEN2_5, merge=1, embed_dim=32)).features("merged")
