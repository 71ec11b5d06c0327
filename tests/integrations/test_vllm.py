"""What a vLLM server is sent: projected features, parts of a chat, names for caches, files of its encoder cache."""

from __future__ import annotations

import base64
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fsfast
from fsfast.errors import CheckpointError
from fsfast.integrations.projector import Projector
from fsfast.integrations.vllm import cache_id, chat_part, image_embeds, write_encoder_cache

DRAW = np.random.default_rng(0)
# Odd sizes, so that no axis can be taken for another.
DIM, HIDDEN = 5, 7
WEIGHTS = {
    "1.weight": DRAW.standard_normal((HIDDEN, DIM), np.float32),
    "1.bias": DRAW.standard_normal(HIDDEN, np.float32),
    "2.weight": DRAW.standard_normal((HIDDEN, HIDDEN), np.float32),
    "2.bias": DRAW.standard_normal(HIDDEN, np.float32),
}
FEATURES = 3 * DRAW.standard_normal((2, 3, DIM), np.float32)
REST = {"language_model.model.norm.weight": np.ones(3, np.float32)}


def transformers_names(prefix=""):
    return {f"{prefix}multi_modal_projector.linear_{name}": array for name, array in WEIGHTS.items()}


def original_names():
    places = {"1": "0", "2": "2"}
    return {f"model.mm_projector.{places[name[0]]}{name[1:]}": array for name, array in WEIGHTS.items()}


def by_hand(row, rounding=lambda x: x):
    """The projector in float64, a number at a time."""
    w = {name: rounding(array).astype(np.float64) for name, array in WEIGHTS.items()}

    def linear(x, place):
        pairs = zip(w[f"{place}.weight"], w[f"{place}.bias"], strict=True)
        return [sum(a * b for a, b in zip(line, x, strict=True)) + bias for line, bias in pairs]

    inner = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in linear([float(v) for v in row], 1)]
    return linear(inner, 2)


def expected(rounding=lambda x: x):
    return np.array([[by_hand(row, rounding) for row in image] for image in FEATURES])


@pytest.fixture(scope="module")
def out():
    """Two images through the built-in engine; the projector of these tests has another width."""
    with fsfast.SmoothedEncoder("demo", secret=b"0123456789abcdef") as encoder:
        found = encoder.encode([np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 200, np.uint8)], n0=2)
    return found


@pytest.fixture(scope="module")
def projector(out):
    dim = out.features.shape[-1]
    return Projector(((DRAW.standard_normal((HIDDEN, dim), np.float32), np.ones(HIDDEN, np.float32)),))


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(transformers_names(), id="saved by transformers"),
        pytest.param(transformers_names("model."), id="named as in memory"),
        pytest.param(original_names(), id="LLaVA's own repository"),
    ],
)
def test_a_projector_is_what_its_formula_says(tensors, tmp_path):
    save_file(tensors | REST, tmp_path / "model.safetensors")
    projector = Projector.from_checkpoint(tmp_path)
    assert (projector.dim, projector.hidden) == (DIM, HIDDEN)
    np.testing.assert_allclose(projector(FEATURES), expected(), atol=2e-5, rtol=2e-6)


def test_half_precisions_are_read_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    for dtype in (torch.float16, torch.bfloat16):
        tensors = {name: torch.from_numpy(array).to(dtype) for name, array in transformers_names().items()}
        save_torch(tensors, tmp_path / "model.safetensors")
        for (weight, bias), place in zip(Projector.from_checkpoint(tmp_path).layers, "12", strict=True):
            for array, part in ((weight, "weight"), (bias, "bias")):
                stored = tensors[f"multi_modal_projector.linear_{place}.{part}"]
                np.testing.assert_array_equal(array, stored.float().numpy())


def test_one_layer_without_bias(tmp_path):
    save_file({"model.mm_projector.weight": WEIGHTS["1.weight"]}, tmp_path / "projector.safetensors")
    projector = Projector.from_checkpoint(tmp_path / "projector.safetensors")
    np.testing.assert_allclose(projector(FEATURES), FEATURES @ WEIGHTS["1.weight"].T, rtol=1e-6, atol=1e-6)


def write_shards(folder):
    """Two shards, of which the first has the language model alone."""
    shards = {"a.safetensors": REST, "b.safetensors": transformers_names()}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_only_the_shard_of_the_projector_is_needed(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "a.safetensors").unlink()
    np.testing.assert_allclose(
        Projector.from_checkpoint(tmp_path)(FEATURES), expected(), atol=2e-5, rtol=2e-6
    )
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors: the shard is missing"):
        Projector.from_checkpoint(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        (REST, {}, "wanted the projector of a LLaVA, got none"),
        (transformers_names() | {"multi_modal_projector.norm.weight": WEIGHTS["1.bias"]}, {}, "norm.weight"),
        (transformers_names() | {"multi_modal_projector.linear_1.bias": WEIGHTS["1.bias"][1:]}, {}, "follow"),
        (
            REST | {k: v for k, v in transformers_names().items() if "linear_1" not in k},
            {},
            r"got some \(\[2\]\)",
        ),
        (transformers_names(), {"projector_hidden_act": "relu"}, "'relu'"),
        (original_names(), {"mm_projector_type": "ldpnet"}, "'ldpnet'"),
        (
            transformers_names() | {"multi_modal_projector.linear_2.bias": WEIGHTS["2.bias"] * np.nan},
            {},
            "linear_2.bias has values that are NaN",
        ),
    ],
)
def test_projectors_of_other_kinds_are_refused(tensors, config, said, tmp_path):
    save_file({name: np.float32(array) for name, array in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        Projector.from_checkpoint(tmp_path)


def test_folders_without_safetensors_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError, match="found none"):
        Projector.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"save weights of torch\.save as safetensors"):
        Projector.from_checkpoint(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="found none at"):
        Projector.from_checkpoint(tmp_path / "nowhere")


def test_features_become_embeddings(out, projector):
    embeds = image_embeds(out, projector)
    assert embeds.dtype == np.float32
    np.testing.assert_array_equal(embeds, projector(out.features))
    other = Projector(((np.ones((HIDDEN, DIM), np.float32), np.zeros(HIDDEN, np.float32)),))
    with pytest.raises(ValueError, match=rf"wanted features \[\.\.\., {DIM}\]"):
        image_embeds(out, other)
    broken = out.features.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        image_embeds(replace(out, features=broken), projector)
    with pytest.raises(ValueError, match="got pooled ones"):
        image_embeds(replace(out, features=out.features[:, 0]), projector)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_part_holds_the_embeddings(dtype, out, projector):
    embeds = image_embeds(out, projector)[1]
    part = chat_part(embeds, "an-image", dtype)
    assert (part["type"], part["uuid"]) == ("image_embeds", "an-image")
    array = np.load(io.BytesIO(base64.b64decode(part["image_embeds"])), allow_pickle=False)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, embeds.astype(dtype))
    json.dumps(part)


def test_parts_that_vllm_would_answer_with_nonsense_are_refused():
    embeds = np.ones((3, HIDDEN), np.float32)
    with pytest.raises(ValueError, match=r"one image \[L, hidden\], got \[1, 3, 7\]"):
        chat_part(embeds[None], "a")
    with pytest.raises(ValueError, match="1 of 21 NaN"):
        chat_part(np.where(np.arange(21).reshape(3, 7) == 4, np.inf, embeds), "a")
    with pytest.raises(ValueError, match="float16 holds, got some up to 70000"):
        chat_part(embeds * 7e4, "a", "float16")


def test_a_name_in_caches_is_that_of_one_image_and_one_function(out, projector):
    others = {
        "function_id": "f" * 64,
        "engine_digest": "e" * 64,
        "sigma": 0.5,
        "n0": 3,
        "seeds": out.seeds + np.uint64(1),
        "grid_sha256": ("0" * 64,) * 2,
    }
    names = [cache_id(replace(out, **{field: value})) for field, value in others.items()]
    names += [cache_id(out), cache_id(out, 1), cache_id(out, 0, projector)]
    assert len(set(names)) == len(others) + 3
    assert cache_id(out, 1) == cache_id(out[1])
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)


def test_a_file_of_the_encoder_cache(out, projector, tmp_path):
    embeds, name = image_embeds(out, projector)[0], cache_id(out)
    with pytest.warns(UserWarning, match="without smoothing"):
        path = write_encoder_cache(tmp_path / "shared", name, embeds)
    assert path == tmp_path / "shared" / name / "encoder_cache.safetensors"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    tensors = load_file(path)
    assert list(tensors) == ["ec_cache"]
    np.testing.assert_array_equal(tensors["ec_cache"], embeds)


@pytest.mark.parametrize("uuid", ["", ".", "..", "../up", "a/b", "a" * 201, "a\n", "-x", "\N{SNOWMAN}"])
def test_names_that_lead_elsewhere_are_refused(uuid, tmp_path):
    embeds = np.ones((3, HIDDEN), np.float32)
    with pytest.raises(ValueError, match="wanted a uuid"):
        chat_part(embeds, uuid)
    with pytest.raises(ValueError, match="wanted a uuid"):
        write_encoder_cache(tmp_path, uuid, embeds)
    assert not list(tmp_path.iterdir())


def test_a_serving_machine_needs_no_torch():
    code = "import sys, fsfast.integrations.vllm; sys.exit(bool({'torch', 'vllm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
