"""Checkpoints of several files: only those that are needed are opened, and an index reaches no other place."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fsfast.models import load_encoder
from tests.models import published
from tests.models.published import NARROW, as_transformers, tower
from tests.models.refusals import refusal
from tests.models.test_bad_checkpoints import PAGE, POINTER
from tests.models.test_checkpoints import assert_holds

WEIGHTS = tower()


# A checkpoint of seven billion parameters.


def write_llava(folder, suffix):
    """The image tower in the second and third of five shards, as a LLaVA has it."""
    rest = {f"language_model.model.layers.{i}.mlp.up_proj.weight": torch.zeros(1) for i in range(60)}
    vision = as_transformers(WEIGHTS, "vision_tower.vision_model.")
    tensors = published.llava_rest() | dict(list(rest.items())[:20]) | vision | dict(list(rest.items())[20:])
    published.write_json(folder / "config.json", published.llava_config())
    return published.write_shards(folder, tensors, suffix, shards=5)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_of_the_language_model_are_not_opened(suffix, tmp_path):
    folder = tmp_path / "llava"
    folder.mkdir()
    shards = write_llava(folder, suffix)
    if suffix == "bin":
        for path in [folder / "model.bin.index.json", *shards]:
            path.rename(folder / path.name.replace("model", "pytorch_model"))
        index = (folder / "pytorch_model.bin.index.json").read_text().replace('"model-', '"pytorch_model-')
        (folder / "pytorch_model.bin.index.json").write_text(index)
        shards = sorted(folder.glob("*.bin"))
    used = [shard for shard in shards if b"vision_tower" in shard.read_bytes()]
    assert 0 < len(used) < len(shards)
    for shard in set(shards) - set(used):
        # Not even there.
        shard.unlink()
    loaded = load_encoder(folder)
    assert_holds(loaded, {k: t for k, t in WEIGHTS.items() if k != "proj"})
    index = next(folder.glob("*.index.json"))
    assert {file.name for file in loaded.files} == {shard.name for shard in used} | {
        index.name,
        "config.json",
    }


def test_a_file_of_the_cache_of_the_hub_may_be_a_link(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for path in published.write_shards(tmp_path / "blobs", WEIGHTS):
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    index = tmp_path / "blobs" / "model.safetensors.index.json"
    (tmp_path / "snapshot" / index.name).symlink_to(index)
    assert_holds(load_encoder(tmp_path / "snapshot", NARROW), WEIGHTS)


# Malformed ones.


@pytest.fixture
def sharded(tmp_path):
    """A sharded CLIPVisionModel."""
    published.write_shards(tmp_path, as_transformers(WEIGHTS))
    return tmp_path


def edit_index(folder, change):
    index = folder / "model.safetensors.index.json"
    record = json.loads(index.read_text())
    change(record)
    index.write_text(json.dumps(record))
    return index


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    message = refusal(sharded)
    assert "the shard model-00002-of-00003.safetensors is missing, which holds vision_model." in message


def test_an_index_that_names_a_missing_file_is_refused(sharded):
    name = "vision_model.post_layernorm.bias"
    edit_index(
        sharded, lambda record: record["weight_map"].update({name: "model-00004-of-00003.safetensors"})
    )
    assert f"the shard model-00004-of-00003.safetensors is missing, which holds {name}" in refusal(sharded)


def test_an_index_that_is_wrong_about_a_shard_is_refused(sharded):
    name = "vision_model.encoder.layers.2.mlp.fc2.bias"
    edit_index(
        sharded, lambda record: record["weight_map"].update({name: "model-00001-of-00003.safetensors"})
    )
    assert f"the index says that {name} is in this file, and it is not" in refusal(sharded)


def test_a_tensor_that_the_index_does_not_list_is_seen(sharded):
    path = sharded / "model-00001-of-00003.safetensors"
    save_file(load_file(path) | {"vision_model.adapter": torch.zeros(1)}, path)
    assert "1 unexpected: vision_model.adapter" in refusal(sharded)


def test_one_shard_alone_is_not_a_checkpoint(sharded):
    for number in (1, 2, 3):
        message = refusal(sharded / f"model-0000{number}-of-00003.safetensors")
        assert "this is one shard of several: give the directory or the index" in message


@pytest.mark.parametrize(
    "shard",
    [
        "../model-00001-of-00003.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "model\0.safetensors",
        "model\n.safetensors",
        "..",
        "",
        "config.json",
        7,
        None,
    ],
)
def test_an_index_that_points_elsewhere_is_refused(shard, sharded):
    # There it would be found.
    outside = sharded.parent / "model-00001-of-00003.safetensors"
    outside.write_bytes((sharded / outside.name).read_bytes())
    index = edit_index(
        sharded,
        lambda record: record["weight_map"].update({"vision_model.embeddings.class_embedding": shard}),
    )
    message = refusal(index)
    assert "wanted the name of a weights file beside the index" in message
    assert repr(shard) in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (POINTER, "a pointer of git-lfs"),
        (PAGE, "a web page"),
        (b"{", "not a JSON file to read"),
        (b"[1]", "wanted an object, got list"),
        (b'{"a": 1, "a": 2}', "a key comes twice"),
        (b"{}", "wanted an index of shards with a weight_map, got []"),
        (b'{"weight_map": {}}', "with a weight_map"),
        (b"\xff\xfe{", "not a JSON file to read"),
    ],
)
def test_a_malformed_index_is_refused(content, complaint, sharded):
    index = sharded / "model.safetensors.index.json"
    index.write_bytes(content)
    assert complaint in refusal(index)
