"""The command line as its users meet it: output, files, exit codes, errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.cli import main


@pytest.fixture
def fs(capsys):
    """Run a command; return (exit code, stdout, stderr)."""

    def call(*args):
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def photos(tmp_path, picture):
    """Two readable pictures and one that is not."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[::-1]).save(tmp_path / "b.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    return [tmp_path / name for name in ("a.png", "broken.jpg", "b.jpg")]


def test_help_of_every_command(fs):
    code, out, _ = fs("--help")
    assert code == 0
    assert "exit codes" in out
    for command in ("demo", "info", "doctor", "encode", "certify", "verify", "bench"):
        assert command in out
        code, text, _ = fs(command, "--help")
        assert code == 0
        assert "usage: fsfast" in text


def test_demo(fs, tmp_path):
    code, out, _ = fs("demo", "--n", 60, "-o", tmp_path / "kept")
    assert code == 0
    for text in ("bit-equal", "certified cosine", "replay:", "same", "ms per sample", "random weights"):
        assert text in out
    assert fsfast.load_certificate(tmp_path / "kept" / "certificate.json").n == 60
    assert fsfast.load_features(tmp_path / "kept" / "features.safetensors").n0 == 4
    code, out, _ = fs("demo", "--n", 20, "--json")
    assert json.loads(out)["verify"] == "same"


def test_info(fs, demo_path):
    code, out, _ = fs("info")
    assert code == 0
    assert "σ = 0.25" in out
    assert "purifier" in out
    record = json.loads(fs("info", demo_path, "--json")[1])
    assert record["manifest"]["name"] == "demo"


def test_doctor(fs):
    code, out, _ = fs("doctor")
    assert code == 0
    assert "onnxruntime" in out
    assert "cuda" in out
    findings = json.loads(fs("doctor", "--json")[1])
    assert findings["kernels"][0] is True


def test_encode_names_what_failed_and_does_the_rest(fs, photos, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, err = fs("encode", "demo", *photos, "-o", target, "--seed", "0x7")
    assert code == 1
    assert err.count("\n") == 1
    assert "broken.jpg" in err
    features = fsfast.load_features(target)
    assert features.features.shape[0] == 2
    assert list(features.seeds) == [7, 7]
    assert "features 2 ×" in out


def test_encode_writes_npz_and_json(fs, photos, tmp_path):
    code, out, _ = fs(
        "encode", "demo", photos[0], "-o", tmp_path / "x.npz", "--n0", 2, "--raw-mean", "--json"
    )
    assert code == 0
    assert json.loads(out)["n0"] == 2
    assert np.load(tmp_path / "x.npz")["raw_mean"].any()


def test_certify_prints_a_table_and_says_what_it_means(fs, photos):
    code, out, err = fs("certify", "demo", *photos, "--n", 60)
    assert code == 1
    assert "broken.jpg" in err
    assert "a.png" in out
    assert "b.jpg" in out
    assert "With probability ≥ 0.999 per image" in out


def test_certify_appends_and_resumes(fs, photos, tmp_path):
    target = tmp_path / "certs.jsonl"
    options = ("--n", 30, "-o", target)
    assert fs("certify", "demo", photos[0], *options)[0] == 0
    first = target.read_text()
    # A line that was cut off by a crash is dropped, and its image certified again.
    target.write_text(first + '{"format": "fsfast-cert')
    code, _, err = fs("certify", "demo", photos[0], photos[2], *options)
    assert code == 0
    assert "done before" in err
    lines = target.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] + "\n" == first
    assert fs("verify", target, photos[2])[0] == 0
    code, _, err = fs("certify", "demo", photos[0], "--n", 31, "-o", target)
    assert code == 2
    assert "another engine, profile, n or α" in err


def test_certify_json_lines(fs, photos):
    code, out, _ = fs("certify", "demo", photos[0], photos[2], "--n", 20, "--json", "--anchor", "clean")
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["anchor"]["kind"] for r in records] == ["clean", "clean"]


def test_verify(fs, photos, tmp_path):
    assert fs("certify", "demo", photos[0], "--n", 20, "-o", tmp_path / "c.jsonl")[0] == 0
    code, out, _ = fs("verify", tmp_path / "c.jsonl", photos[0])
    assert (code, out) == (0, "same\n")
    (tmp_path / "c.json").write_text((tmp_path / "c.jsonl").read_text())
    code, out, _ = fs("verify", tmp_path / "c.json", photos[2])
    assert code == 1
    assert out.startswith("different:\n")
    code, out, _ = fs("verify", tmp_path / "c.json", photos[0], "--micro-batch", 2, "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "cannot be checked bit for bit here"


def test_bench(fs):
    code, out, _ = fs("bench", "demo", "--n0", 1, 2, "--runs", 2)
    assert code == 0
    assert "ms per image" in out
    assert "encoder" in out
    measured = json.loads(fs("bench", "demo", "--n0", 2, "--runs", 1, "--json")[1])
    assert measured["latency"][0]["n0"] == 2


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("magic",),
        ("info", "nowhere"),
        ("encode", "demo", "x.png"),
        ("encode", "demo", "x.png", "-o", "x.txt"),
        ("certify", "demo", "x.png", "--alpha", "2"),
        ("certify", "demo", "x.png", "--epsilon", "-1"),
        ("certify", "demo", "x.png", "--seed", "abc"),
        ("verify", "nowhere.json", "x.png"),
        ("bench", "demo", "--runs", "0"),
        ("demo", "--image", "nowhere.png"),
        ("demo", "--threads", "0"),
    ],
    ids=" ".join,
)
def test_wrong_use_exits_with_2_and_no_traceback(fs, args):
    code, out, err = fs(*args)
    assert code == 2
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err


def test_all_inputs_failed(fs, photos, tmp_path):
    code, _, err = fs("encode", "demo", photos[1], "-o", tmp_path / "x.npz")
    assert code == 1
    assert "broken.jpg" in err
    assert not (tmp_path / "x.npz").exists()


def test_the_secret_comes_from_the_environment(fs, photos, monkeypatch):
    monkeypatch.setenv("FSFAST_SECRET", "a secret of many characters")
    seeds = [
        json.loads(fs("certify", "demo", photos[0], "--n", 5, "--json")[1])["certification"] for _ in range(2)
    ]
    assert seeds[0] == seeds[1]
    assert seeds[0]["seed_origin"] == "secret"


def test_the_module_and_the_script_start_alike():
    done = subprocess.run(
        [sys.executable, "-m", "fsfast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"fsfast {fsfast.__version__}\n"
