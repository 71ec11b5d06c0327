"""`--device`: what the commands say with and without a GPU; certificates of a GPU where there is none."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
from PIL import Image

import fsfast
from fsfast.commands import common
from fsfast.engine.profile import Profile

torch = pytest.importorskip("torch", reason="a GPU is used through torch")
ON_GPU = Profile("torch", "2.13", "bfloat16", 4, "cuda+sm_90+NVIDIA H200", ("purifier", "encoder", "mapper"))


@pytest.fixture
def photo(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def rehearsed(monkeypatch):
    """device="cuda" runs on the CPU."""
    from fsfast.backends.device import place
    from fsfast.runtime.gpu import opening

    monkeypatch.setattr(opening, "cuda_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(place, "problems", lambda: [])


@pytest.mark.parametrize(
    "command",
    [("encode", "demo", "PHOTO", "-o", "OUT"), ("certify", "demo", "PHOTO"), ("bench", "demo")],
    ids=lambda command: command[0],
)
def test_without_a_gpu_one_line_says_why(fs, photo, tmp_path, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = {"PHOTO": photo, "OUT": tmp_path / "x.npz"}
    code, _, err = fs(*(names.get(word, word) for word in command), "--device", "cuda")
    assert code == 2
    assert err.count("\n") == 1
    assert "wanted device 'cuda': torch" in err


def test_an_unknown_device(fs, photo):
    code, _, err = fs("certify", "demo", photo, "--device", "tpu")
    assert code == 2
    assert "'cpu' or 'cuda'" in err


@pytest.mark.slow
def test_commands_run_on_the_device(fs, photo, tmp_path, rehearsed):
    on_gpu = ("--device", "cuda")
    assert fs("encode", "demo", photo, "-o", tmp_path / "x.npz", *on_gpu)[0] == 0
    target = tmp_path / "c.jsonl"
    assert fs("certify", "demo", photo, "--n", 20, "-o", target, *on_gpu)[0] == 0
    assert fs("verify", target, photo, *on_gpu)[:2] == (0, "same\n")


@pytest.mark.slow
def test_bench_on_the_device(fs, rehearsed):
    """Steps overlap there and are not timed; precisions are torch's."""
    options = ("--device", "cuda", "--backend", "torch", "--n0", 1, "--runs", 1)
    code, out, _ = fs("bench", "demo", *options)
    assert code == 0
    assert "recommended: backend='torch'" in out
    assert "around them" not in out
    measured = json.loads(fs("bench", "demo", *options, "--precision", "float16", "--json")[1])
    assert [(m["backend"], m["precision"]) for m in measured["variants"]] == [("torch", "float16")]
    assert set(measured["variants"][0]["steps_ms"].values()) == {0.0}


def test_a_certificate_of_a_gpu_is_compared_on_the_cpu(fs, photo, tmp_path, monkeypatch):
    """Its back end and its precision mean nothing to the engine on a CPU; its scores can be compared."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        certificate = encoder.certify(photo, 20, seeds=[1])
    made = replace(certificate, profile=ON_GPU, function_id=ON_GPU.function_id(certificate.engine_digest))
    made.save(tmp_path / "c.json")
    code, out, _ = fs("verify", tmp_path / "c.json", photo)
    assert code == 1
    assert out.startswith("cannot be checked bit for bit here:\n")
    assert "device: cuda+sm_90+NVIDIA H200 there" in out
    assert "largest deviation of a score" in out


NOTHING = {"device": "auto", "backend": "auto", "precision": None, "micro_batch": None, "graph_threads": None}


@pytest.mark.parametrize(
    ("given", "usable", "wanted"),
    [
        ({}, True, {"device": "cuda", "backend": "torch", "precision": "bfloat16", "micro_batch": 4}),
        ({}, False, {"device": "auto", "backend": "auto", "precision": None, "micro_batch": None}),
        ({"device": "cpu"}, True, {"device": "cpu", "backend": "auto", "precision": None}),
        ({"device": "cuda:1"}, True, {"device": "cuda:1", "backend": "torch", "precision": "bfloat16"}),
        ({"micro_batch": 8}, True, {"device": "cuda", "micro_batch": 8}),
    ],
    ids=["gpu", "no gpu", "cpu asked for", "other gpu", "other rows"],
)
def test_verify_runs_as_certified_where_it_can(monkeypatch, given, usable, wanted):
    monkeypatch.setattr(common, "_usable_on_gpu", lambda backend: usable)
    found = common.as_certified({**NOTHING, "stages": None, **given}, ON_GPU)
    assert found["stages"] == ON_GPU.stages
    assert {name: found[name] for name in wanted} == wanted


def test_a_certificate_of_a_cpu_on_a_gpu():
    """The GPU may lack its precision; threads inside a run mean nothing there."""
    profile = replace(ON_GPU, device="cpu+x86_64", backend="onnxruntime", precision="int8", graph_threads=2)
    found = common.as_certified({**NOTHING, "stages": None, "device": "cuda"}, profile)
    assert found == {**NOTHING, "device": "cuda", "stages": profile.stages}
    assert common.as_certified({**NOTHING, "stages": None}, profile)["graph_threads"] == 2


def test_doctor_lists_every_back_end_of_a_gpu(fs):
    findings = json.loads(fs("doctor", "--json")[1])
    for name in ("torch", "torch-compile", "tensorrt", "tensorrt_rtx", "onnxruntime"):
        usable, text = findings[f"cuda {name}"]
        assert usable is (findings["cuda"][0] and "pip install" not in text)
        assert "experimental" in text


def test_the_demo_stays_on_the_cpu():
    parser = argparse.ArgumentParser()
    common.engine_arguments(parser, positional=False, device=False)
    assert parser.parse_args([]).device == "cpu"
