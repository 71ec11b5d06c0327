"""How many machines a load takes, from a file of measurements."""

from __future__ import annotations

import json

import pytest

from fsfast.certificates.reach import Reach
from fsfast.engine.engine import load_engine
from fsfast.kernels import noise_total_variation


@pytest.fixture
def record():
    """A machine of 8 threads: 100 samples/s where all have rows, and in certification."""
    return {
        "engine": "demo",
        "engine_digest": load_engine("demo").digest,
        "profile": {"device": "cpu+x86_64", "backend": "onnxruntime", "precision": "float32"},
        "threads": 8,
        "latency": [
            {"n0": 1, "p50_ms": 50.0, "p80_ms": 60.0, "samples_per_s": 20.0},
            {"n0": 10, "p50_ms": 100.0, "p80_ms": 110.0, "samples_per_s": 100.0},
        ],
        "certification_samples_per_s": 100.0,
        "memory_mb": 400.0,
    }


@pytest.fixture
def plan(fs, record, tmp_path):
    """Plan for the machine; return name → estimate."""

    def call(*arguments, **changed):
        path = tmp_path / "bench.json"
        path.write_text(json.dumps({**record, **changed}))
        code, out, err = fs("plan", "demo", "--bench", path, "--json", *arguments)
        assert code == 0, err
        return {each["name"]: each for each in json.loads(out)}

    return call


def test_serving_alone(plan):
    found = plan("--images-per-second", 20, "--n0", 10, "--utilisation", 0.5)
    assert found["capacity at n0 = 10"]["value"] == 10.0
    assert found["capacity at n0 = 10"]["source"] == "measured"
    # Two machines' work, each half busy.
    assert (found["load"]["value"], found["machines"]["value"], found["processors"]["value"]) == (2.0, 4, 32)
    assert found["latency, median, idle machine"]["value"] == 100.0
    assert found["latency, p80, idle machine"]["source"] == "measured"
    # M/D/1: half of the time of one image, 100 ms, at half load.
    assert found["wait in the queue"]["value"] == pytest.approx(50.0)
    assert (found["memory per machine"]["value"], found["memory per machine"]["source"]) == (
        400.0,
        "measured",
    )
    assert "samples per certificate" not in found


def test_what_was_not_measured_is_marked(plan):
    found = plan("--images-per-second", 5, "--n0", 4, memory_mb=None, certification_samples_per_s=None)
    assert found["capacity at n0 = 4"]["value"] == 25.0
    assert found["capacity at n0 = 4"]["source"] == "extrapolated"
    assert found["latency, median, idle machine"]["value"] == 200.0
    assert found["latency, median, idle machine"]["source"] == "extrapolated"
    assert found["memory per machine"]["source"] == "extrapolated"
    assert "at least" in found["memory per machine"]["why"]


def test_certificates_take_the_fewest_samples_that_can_do(plan):
    manifest = load_engine("demo").manifest
    total_variation = noise_total_variation(manifest.sigma, 3 * manifest.grid.height * manifest.grid.width)
    wanted = Reach(1, 1e-2, True, manifest.sigma, total_variation).samples(0.25, 0.7)
    found = plan("--images-per-second", 1, "--n0", 10, "--epsilon", 0.25, "--cosine", 0.7, "--alpha", 0.01)
    assert found["samples per certificate"]["value"] == wanted
    assert found["certification"]["source"] == "measured"
    # 64 pilot samples come before.
    assert found["a certificate, idle machine"]["value"] == pytest.approx((64 + wanted) / 100)
    assert found["load"]["value"] == pytest.approx(0.1 + (64 + wanted) / 100)


def test_known_samples_and_a_share_of_the_images(plan):
    found = plan(*("--images-per-second", 10, "--n0", 10, "--epsilon", 0.1, "--samples", 936, "--share", 0.1))
    assert found["load"]["value"] == pytest.approx(1.0 + 10.0)
    # Certification yields to serving: sixteen machines, a sixteenth busy.
    assert found["machines"]["value"] == 16
    assert found["wait in the queue"]["value"] == pytest.approx(100 * (1 / 16) / (2 * (1 - 1 / 16)))


def test_what_bench_prints_is_read(fs, tmp_path):
    path = tmp_path / "bench.json"
    options = ("--n0", 1, 2, "--runs", 1, "--backend", "onnxruntime", "--json")
    path.write_text(fs("bench", "demo", *options)[1])
    code, out, _ = fs("plan", "demo", "--images-per-second", 20, "--epsilon", 0.1, "--bench", path)
    assert code == 0
    assert "onnxruntime, float32" in out
    assert {"measured", "extrapolated", "computed"} <= set(out.split())


def test_without_a_file_it_measures_here(fs):
    code, out, _ = fs("plan", "demo", "--images-per-second", 1, "--n0", 1, "--threads", 1, "--json")
    assert code == 0
    found = {each["name"]: each for each in json.loads(out)}
    assert found["latency, median, idle machine"]["source"] == "measured"
    assert found["memory per machine"]["source"] == "measured"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images-per-second", 0), "wanted --images-per-second > 0"),
        (("--images-per-second", "nan"), "wanted --images-per-second > 0"),
        (("--images-per-second", 1, "--share", 0), r"wanted --share in (0, 1]"),
        (("--images-per-second", 1, "--utilisation", 1.5), "wanted --utilisation in (0, 1]"),
        (("--images-per-second", 1, "--n0", 0), "--n0"),
        (("--images-per-second", 1, "--cosine", 0.5), "wanted --epsilon with --cosine and --samples"),
        (("--images-per-second", 1, "--epsilon", 3), "ask for a smaller radius"),
        (("--images-per-second", 1, "--epsilon", 0.5, "--samples", 50), "cannot certify a cosine of 0.5"),
        (("--images-per-second", 1, "--epsilon", 0.1, "--samples", 0), "wanted n_max"),
        (("--images-per-second", 1, "--threads", 2), "give --threads to `fsfast bench` instead"),
    ],
)
def test_wrong_wishes_are_named(fs, record, tmp_path, arguments, said):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(record))
    code, _, err = fs("plan", "demo", "--bench", path, *arguments)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "wanted what `fsfast bench --json` prints"),
        ("[]", "wanted what `fsfast bench --json` prints"),
        ("ms per image", "bench.json"),
        ({"latency": []}, "nothing was measured"),
        ({"latency": [{"n0": 1, "p50_ms": 0, "p80_ms": 1, "samples_per_s": 1}]}, "a positive number"),
        ({"engine": "photo"}, "the measurement is of the engine 'photo'"),
        ({"engine_digest": "0" * 64}, "with digest 0000000000000000…"),
    ],
)
def test_wrong_files_are_named(fs, record, tmp_path, content, said):
    path = tmp_path / "bench.json"
    path.write_text(content if isinstance(content, str) else json.dumps({**record, **content}))
    code, _, err = fs("plan", "demo", "--images-per-second", 1, "--bench", path)
    assert code == 2
    assert said in err


def test_a_missing_file_is_named(fs, tmp_path):
    code, _, err = fs("plan", "demo", "--images-per-second", 1, "--bench", tmp_path / "none.json")
    assert code == 2
    assert "none.json" in err
