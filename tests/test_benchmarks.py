"""The benchmarks run, and their files hold what they should. No timing is asserted."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import engines, harness, kernels, readme, serving
from benchmarks.__main__ import main


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
