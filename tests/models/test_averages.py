"""Raw weights and their average in one file: both are told apart, and neither is taken in silence."""

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import SmoothnessMapper, inspect_checkpoint, load_encoder, load_mapper, load_purifier
from fsfast.models.averages import SeveralStateDicts
from fsfast.models.unet import UNET_TINY, UNet
from tests.models import families, published, refusals
from tests.models.families import DINOV2, FAMILIES
from tests.models.published import NARROW, prefixed
from tests.models.test_checkpoints import assert_holds

RAW, AVERAGE = published.tower(seed=0), published.tower(seed=1)
COUNT = {"n_averaged": torch.tensor(7)}
# ema_pytorch keeps both, and two numbers.
BOTH = prefixed("online_model.", RAW) | prefixed("ema_model.", AVERAGE) | {"initted": torch.tensor(1)}
FILES = {
    "ConvNeXt": {"model": RAW, "model_ema": AVERAGE, "epoch": 3},
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGE},
    "diffusion": {"model": RAW, "ema": AVERAGE},
    "torchvision": {"model": RAW, "model_ema": prefixed("module.", AVERAGE) | COUNT},
    "BasicSR": {"state_dict": RAW, "params_ema": AVERAGE},
    "AveragedModel under any key": {"model": RAW, "smooth": prefixed("module.", AVERAGE) | COUNT},
    "DINO": {"student": prefixed("module.backbone.", RAW), "teacher": prefixed("backbone.", AVERAGE)},
    "Lightning": {
        "state_dict": prefixed("net.", AVERAGE),
        "current_model_state": prefixed("net.", RAW),
        "averaging_state": COUNT,
    },
    "a callback of Lightning": {"state_dict": RAW, "callbacks": {"EMACallback": {"state_dict_ema": AVERAGE}}},
    "a module of Lightning": {"state_dict": prefixed("model.", RAW) | prefixed("ema_model.module.", AVERAGE)},
    "ema_pytorch": BOTH,
    "ema_pytorch beside the network": {"model": RAW, "ema": BOTH},
    "two wrappers": {"model": {"state_dict": RAW, "state_dict_ema": AVERAGE}},
}


def refusal(path, **how):
    return refusals.refusal(path, **how).removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", FILES)
def test_both_are_found_and_neither_is_taken_in_silence(name, tmp_path):
    torch.save(FILES[name], tmp_path / "a.pt")
    said = refusal(tmp_path / "a.pt")
    assert said.startswith("wanted one state dict, got ")
    assert 'weights="ema" (--weights ema) or weights="raw" (--weights raw)' in said
    raw, average = (load_encoder(tmp_path / "a.pt", NARROW, weights=each) for each in ("raw", "ema"))
    assert_holds(raw, RAW)
    assert_holds(average, AVERAGE)
    assert [note for note in raw.notes if note.startswith("raw weights")]
    assert [note for note in average.notes if note.startswith("averaged weights") and "not those of" in note]
    if name == "two wrappers":
        assert average.notes[-1] == "averaged weights of model.state_dict_ema, not those of model.state_dict"


@pytest.mark.parametrize("suffix", ["safetensors", "index"])
def test_both_may_lie_under_prefixes_of_one_set_of_names(suffix, tmp_path):
    """DINOv2 in training; as one file or in shards, of which one has the teacher alone."""
    tensors = families.weights(FAMILIES["DINOv2 by its authors"])
    tensors = prefixed("backbone.", tensors) | {"dino_head.mlp.0.weight": torch.zeros(2, 32)}
    both = prefixed("student.", tensors) | {f"teacher.{name}": tensor + 1 for name, tensor in tensors.items()}
    if suffix == "index":
        published.write_shards(tmp_path, both)
    else:
        save_file(both, tmp_path / "model.safetensors")
    raw, average = (load_encoder(tmp_path, DINOV2, weights=each).module for each in ("raw", "ema"))
    torch.testing.assert_close(average.class_embedding, raw.class_embedding + 1, rtol=0, atol=0)
    with pytest.raises(SeveralStateDicts, match=r"got student \(raw\) and teacher \(averaged\)"):
        load_encoder(tmp_path, DINOV2)


def test_both_may_be_files_of_one_directory(tmp_path):
    """Its config.json is that of both."""
    published.write_json(tmp_path / "config.json", published.clip_vision_config())
    save_file(published.as_transformers(RAW), tmp_path / "model.safetensors")
    save_file(published.as_transformers(AVERAGE), tmp_path / "model-ema.safetensors")
    assert refusal(tmp_path).startswith(
        "wanted one state dict, got model.safetensors (raw) and model-ema.saf"
    )
    raw, average = (load_encoder(tmp_path, weights=each) for each in ("raw", "ema"))
    assert raw.module.config == average.module.config
    for loaded, wanted in ((raw, RAW), (average, AVERAGE)):
        assert_holds(loaded, {name: tensor for name, tensor in wanted.items() if name != "proj"})
    assert "averaged weights of model-ema.safetensors, not those of model.safetensors" in average.notes


def test_a_sister_of_the_same_names_is_seen_under_any_key(tmp_path):
    torch.save({"model": RAW, "momentum": AVERAGE}, tmp_path / "a.pt")
    for how in ({}, {"weights": "ema"}):
        said = refusal(tmp_path / "a.pt", **how)
        assert said.startswith(
            'wanted one state dict, got model (raw) and momentum; choose with weights="raw"'
        )
    assert_holds(load_encoder(tmp_path / "a.pt", NARROW, weights="raw"), RAW)


def test_what_stands_beside_is_no_state_dict(tmp_path):
    rest = {
        "optimizer": {"state_dict": {"lr": 0.1}},
        "ema_decay": 0.99,
        "swa_epochs": [1, 2],
        "callbacks": {"a": {}},
    }
    torch.save({"model": {"state_dict": RAW}, **rest}, tmp_path / "a.pt")
    loaded = load_encoder(tmp_path / "a.pt", NARROW)
    assert_holds(loaded, RAW)
    assert not any("weights" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("content", "weights", "other", "says"),
    [
        (RAW, "raw", "ema", None),
        ({"model": RAW}, "raw", "ema", None),
        ({"state_dict_ema": AVERAGE}, "ema", "raw", "averaged weights of state_dict_ema"),
        ({"ema": {"state_dict": AVERAGE}}, "ema", "raw", "averaged weights of ema.state_dict"),
        (prefixed("module.", AVERAGE) | COUNT, "ema", "raw", "averaged weights"),
        (prefixed("teacher.", AVERAGE), "ema", "raw", "averaged weights of teacher"),
    ],
)
def test_those_that_stand_alone_are_taken_and_the_others_refused(content, weights, other, says, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    for given in (None, weights):
        loaded = load_encoder(tmp_path / "a.pt", NARROW, weights=given)
        assert_holds(loaded, RAW if weights == "raw" else AVERAGE)
        assert [note for note in loaded.notes if "weights" in note] == ([says] if says else [])
    words = {"raw": "raw", "ema": "averaged"}
    wanted = f"wanted {words[other]} weights, as weights='{other}' (--weights) says, and this file has {words[weights]}"
    assert refusal(tmp_path / "a.pt", weights=other).startswith(wanted)


@pytest.mark.parametrize(
    "content",
    [
        {"model": RAW, "ema": list(AVERAGE.values())},
        {"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(AVERAGE.values())}},
        # LitEma, of a module of Lightning.
        prefixed("model.visual.", RAW)
        | {f"model_ema.visual{name.replace('.', '')}": tensor for name, tensor in AVERAGE.items()}
        | {"model_ema.decay": torch.tensor(0.9)},
    ],
    ids=["list", "shadow_params", "LitEma"],
)
def test_an_average_without_names_is_neither_dropped_nor_taken(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").startswith("wanted one state dict, got ")
    assert "do not say which tensor is which; copy them" in refusal(tmp_path / "a.pt", weights="ema")
    assert_holds(load_encoder(tmp_path / "a.pt", NARROW, weights="raw"), RAW)


def test_keys_of_other_people_steer_no_terminal(tmp_path):
    torch.save({"model": RAW, "ema": AVERAGE, "a\x1b[2J\nb": RAW}, tmp_path / "a.pt")
    assert r"and a\u001b[2J b" in refusal(tmp_path / "a.pt")
    loaded = load_encoder(tmp_path / "a.pt", NARROW, weights="raw")
    assert all(note.isprintable() for note in loaded.notes)


def test_of_two_averages_the_raw_weights_can_be_meant(tmp_path):
    torch.save({"model": RAW, "ema": AVERAGE, "swa_model": AVERAGE}, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").endswith('choose with weights="raw" (--weights raw)')
    assert refusal(tmp_path / "a.pt", weights="ema").endswith("save the one that is meant alone")
    assert_holds(load_encoder(tmp_path / "a.pt", NARROW, weights="raw"), RAW)


@pytest.mark.parametrize(
    ("network", "load"),
    [(lambda: UNet(UNET_TINY), load_purifier), (lambda: SmoothnessMapper(64, 2), load_mapper)],
    ids=["purifier", "mapper"],
)
def test_purifiers_and_mappers_too(network, load, tmp_path):
    raw = network().state_dict()
    average = {name: tensor + 1 for name, tensor in raw.items()}
    torch.save({"model": raw, "ema": prefixed("module.", average) | COUNT}, tmp_path / "a.pt")
    with pytest.raises(SeveralStateDicts):
        load(tmp_path / "a.pt")
    for weights, wanted in (("raw", raw), ("ema", average)):
        loaded = load(tmp_path / "a.pt", weights=weights)
        torch.testing.assert_close(dict(loaded.module.state_dict()), dict(wanted), rtol=0, atol=0)
        notes = load(tmp_path / "a.pt", weights=weights, values=False).notes
        assert any(
            note.startswith(f"{'raw' if weights == 'raw' else 'averaged'} weights of") for note in notes
        )


def test_an_inspection_describes_the_weights_that_are_meant(tmp_path):
    half = {name: tensor.half() for name, tensor in AVERAGE.items()}
    torch.save({"model": RAW, "ema": half}, tmp_path / "a.pt")
    assert inspect_checkpoint(tmp_path / "a.pt").problem.startswith("wanted one state dict")
    found = inspect_checkpoint(tmp_path / "a.pt", weights="ema")
    assert (found.problem, found.dtypes, found.state_dicts) == (None, ("float16",), ("ema", "model"))
    torch.save({"model": RAW, "module": RAW}, tmp_path / "a.pt")
    found = inspect_checkpoint(tmp_path / "a.pt")
    assert found.problem == "wanted one state dict, got model and module; save the one that is meant alone"
    torch.save(RAW, tmp_path / "a.pt")
    found = inspect_checkpoint(tmp_path / "a.pt", weights="ema")
    assert (found.family, found.problem.split(",")[0]) == ("CLIP", "wanted averaged weights")


def test_other_words_are_refused(tmp_path):
    torch.save(RAW, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="wanted weights as 'raw' or 'ema', got 'average'"):
        load_encoder(tmp_path / "a.pt", NARROW, weights="average")
    assert issubclass(SeveralStateDicts, CheckpointError)
