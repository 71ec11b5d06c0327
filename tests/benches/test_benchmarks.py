"""The benchmarks run, and their files hold what they should. No timing is asserted."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as front
from benchmarks.__main__ import main
from benchmarks.cpu import engines, kernels, purified, runtimes, serving, techniques
from benchmarks.gpu import tune
from benchmarks.measuring import harness, workers
from benchmarks.pages import performance, readme
from fsfast.engine.engine import load_engine


def test_rows_go_to_a_file_with_everything_that_repeats_them(tmp_path):
    timing = harness.Timing(0.001, 0.002, 0.003)
    row = harness.row("op", "ours", 1, timing, 4.0, "G samples/s", share=0.5, of="copy")
    assert row.rate == 2000.0
    path = harness.write_csv("file", [row], tmp_path)
    (record,) = csv.DictReader(path.open())
    assert record["p50_ms"] == "2"
    assert record["rate"] == "2000"
    assert record["of"] == "copy"
    assert all(record[key] for key in ("commit", "date", "device", "python", "numpy", "onnxruntime"))
    assert "op" in harness.show([row])
    assert "| op | ours | 1 | 2 | 2000 G samples/s | 50% of copy |" in readme.render_file(path)


def once(call, **_):
    """Stand in for `measure`: one call, no clock."""
    call()
    return harness.Timing(1.0, 1.0, 1.0)


def test_every_kernel_has_a_case(monkeypatch):
    monkeypatch.setattr(harness, "measure", once)
    for module in (kernels, serving):
        monkeypatch.setattr(module, "measure", harness.measure)
    rows = list(itertools.chain(kernels.noise(), kernels.resize(), kernels.reduction()))
    assert {"noisy_batch", "denoise_resize_normalise", "cosine_mean"} <= {row.case for row in rows}


def test_serving_cases_run(monkeypatch):
    monkeypatch.setattr(serving, "measure", once)
    rows = list(
        itertools.chain(
            serving.latency("demo", (1,), runs=1), serving.steps("demo", 1), serving.certification("demo", 2)
        )
    )
    assert {row.case for row in rows} == {"encode", "step", "certify"}


def test_techniques_compute_the_same_features(demo_path, pooled_path):
    """The research code in both forms on the same noise; a runtime by hand; fsfast."""
    demo = load_engine(demo_path)
    loop, batched = (techniques.open_technique(f"torch: {how}", demo)(3) for how in ("loop", "batched"))
    assert loop.shape == (64, 128)
    assert runtimes.cosine(loop, batched) == pytest.approx(1.0, abs=1e-6)
    assert 0.99 < runtimes.cosine(loop, techniques.open_technique("torch: batched, bf16", demo)(3)) < 1 - 1e-7
    ours = techniques.open_technique("fsfast: onnxruntime, float32", demo)(3)
    # Other noise, the same picture.
    assert runtimes.cosine(ours, loop) > 0.9
    pooled = load_engine(pooled_path)
    whole = techniques.open_technique("torch: batched", pooled)(64)
    for runtime in ("onnxruntime", "openvino"):
        by_hand = techniques.open_technique(f"{runtime} by hand: float32", pooled)
        assert runtimes.cosine(by_hand(64), whole) > 0.9
        # Purifier, resize and mapper, too, and another number of samples.
        by_hand = techniques.open_technique(f"{runtime} by hand: float32", demo)
        assert runtimes.cosine(by_hand(3), loop) > 0.9
        assert by_hand(1).shape == loop.shape
    with pytest.raises(ValueError, match="magic"):
        techniques.open_technique("magic: loop", demo)


def test_techniques_race_in_processes(demo_path, monkeypatch):
    monkeypatch.setattr(workers, "_PAUSE_S", 0.0)
    names = ["fsfast: onnxruntime, float32", "certify: onnxruntime, float32, M=2, T=2"]
    outcomes = workers.race(names, str(demo_path), 2, 2)
    assert list(outcomes) == names
    assert all(
        outcome.memory_mb > 20 and outcome.features.shape == (64, 128) for outcome in outcomes.values()
    )
    (row,) = runtimes.rows_of("case", {names[0]: outcomes[names[0]]}, 2)
    assert row.cosine == pytest.approx(1.0)
    with pytest.raises(RuntimeError, match="the technique 'magic: x' ended with exit code 1"):
        workers.race(["magic: x"], str(demo_path), 1, 1)


def test_techniques_run_one_after_the_other(demo_path):
    name = "onnxruntime by hand: float32"
    outcomes = workers.one_by_one([name], str(demo_path), {1: 2, 3: 1})
    assert list(outcomes) == [1, 3]
    one, three = outcomes[1][name], outcomes[3][name]
    assert one.timing.p20 <= one.timing.p80
    assert three.timing.p20 == three.timing.p80
    assert 0.9 < runtimes.cosine(one.features, three.features) < 1 - 1e-6
    assert one.memory_mb <= three.memory_mb


def test_tables_of_techniques(tmp_path):
    timing = harness.Timing(0.001, 0.002, 0.003)
    more = {"share": 2.0, "of": runtimes.BASELINE, "memory_mb": 100.0, "cosine": 0.9998771}
    rows = [
        harness.row("ViT", "fsfast: x", 2, timing, 4, "samples/s", **more),
        harness.row("cold start", "import", 2, timing, 1, "starts/s", disk_mb=3.25),
    ]
    path = harness.write_csv("cpu", rows, tmp_path)
    assert "| fsfast: x | 0.5 | 2.00 | 100 | 0.999877 |" in performance.render("techniques", path)
    others = performance.render("others", path)
    assert "| cold start | import | 2 | 500 starts/s | 3.2 MB on disk |" in others
    assert "fsfast: x" not in others
    assert performance.render("others", tmp_path / "nothing.csv") == ""


def test_the_table_of_numbers_of_samples(tmp_path):
    more = {"share": 2.0, "of": runtimes.BASELINE, "memory_mb": 100.0, "cosine": 0.9998771}
    timing = harness.Timing(0.001, 0.004, 0.005)
    rows = [harness.row(f"chain, n0={n}", "fsfast: x", 2, timing, n, "samples/s", **more) for n in (1, 2, 16)]
    path = harness.write_csv("purified", rows, tmp_path)
    table = performance.render("numbers", path)
    assert "| chain, ms per sample | n0 = 1 | n0 = 2 | n0 = 16 | × torch: loop, medium, n0 = 16 |" in table
    assert "| fsfast: x | 4 | 2 | 0.25 | 2.00 | 100 | 0.999877 |" in table


def test_a_cold_start_is_taken_apart(demo_path):
    times = runtimes._cold(str(demo_path), "onnxruntime", "float32", 1)
    assert times.shape == (1, 3)
    assert (times > 0).all()


def test_every_technique_has_a_name_that_is_known():
    for name in (*runtimes.TORCH, *runtimes.BY_HAND, *runtimes.FSFAST, *purified.ADM_TECHNIQUES):
        assert runtimes.family(name) in ("torch", "by hand", "fsfast")
    assert runtimes.BASELINE in runtimes.TORCH


def test_an_unknown_group_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["magic"])
    assert stop.value.code == 2
    assert "kernels" in capsys.readouterr().err


def test_benchmarks_are_collected_only_on_demand():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    with_option = subprocess.run([*command, "--benchmark"], capture_output=True, text=True, check=True).stdout
    assert "test_latency[16]" in with_option
    assert "tests/" not in with_option
    without = subprocess.run([*command, "benchmarks"], capture_output=True, text=True, check=False).stdout
    assert "test_latency" not in without


def test_engines_keep_the_rows_of_others(tmp_path):
    """One engine measured again replaces its own row; numbers of the others stay as they were written."""
    path = tmp_path / "recipes.csv"
    row = engines.Row("clip-b16", 224, "1×512", 345.4, 20.0, 18.0, 1700.0, 4e-6, 0.0)
    engines.write([row, replace(row, engine="llava-1.5", grid=336)], path)
    engines.write([replace(row, build_s=30.0)], path)
    rows = {row["engine"]: row for row in engines.read(path)}
    assert (rows["clip-b16"]["build_s"], rows["llava-1.5"]["build_s"]) == ("30", "20")
    assert (
        "| `llava-1.5` | 336² | 1×512 | 345 MB | 20 s | 18 s | 1.7 GB | 4e-06 | < 1e-9 |"
        in engines.render(path)
    )


def test_engines_are_named_by_their_networks(tmp_path):
    line = engines.command("clip-b16+unet-light+mapper", tmp_path)
    assert line[3:5] == ["clip-b16", "--random-weights"]
    assert line[line.index("--purifier") + 1] == "unet-light"
    with pytest.raises(ValueError, match="magic"):
        engines.command("clip-b16+magic", tmp_path)
    assert engines.main(["--recipes", "clip-b16+magic"]) == 2


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_was_measured_before_an_error_is_kept_on_a_gpu(tmp_path, monkeypatch, on_gpu):
    """Elsewhere the old file stays."""

    def broken():
        yield harness.row("case", "variant", 1, harness.Timing(0.1, 0.1, 0.1), 1, "runs/s")
        raise RuntimeError("out of memory")

    monkeypatch.setitem(front.REGISTRY, "broken", (broken,))
    monkeypatch.setattr(front, "ON_GPU", frozenset({"broken"} if on_gpu else ()))
    monkeypatch.setattr(harness, "gpu", lambda: "a-gpu")
    with pytest.raises(RuntimeError, match="out of memory"):
        front.measure("broken", tmp_path)
    assert (tmp_path / "broken.csv").exists() == on_gpu


def test_without_a_gpu_the_group_is_left_out_or_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(front, "REGISTRY", {"gpu": front.REGISTRY["gpu"]})
    assert main([]) == 0
    assert "gpu: left out: no CUDA GPU" in capsys.readouterr().out
    for command, arguments in ((main, ["gpu"]), (tune.main, [])):
        with pytest.raises(SystemExit) as stop:
            command(arguments)
        assert stop.value.code == 2
        assert "no CUDA GPU" in capsys.readouterr().err
