"""The GPU study, rehearsed on the CPU with small networks. No timing is asserted."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import scale
from benchmarks.gpu.device import __main__ as study
from benchmarks.gpu.device import encode, llava, networks
from benchmarks.gpu.device.place import Place
from benchmarks.measuring import harness

ROOT = Path(__file__).parents[2]
ON_CPU = Place(torch.device("cpu"))


def test_every_technique_computes_the_same_directions():
    rows = list(encode.techniques(ON_CPU, "adm256", (1, 3), compiled_n0=3))
    assert [r.n0 for r in rows] == [1] * 3 + [3] * 5
    assert {r.technique.split(",")[0] for r in rows} >= {"eager float32", "fsfast", "torch.compile bfloat16"}
    # bfloat16 has 8 bits; another noise would give a cosine near that of two samples, far below.
    assert min(r.cosine for r in rows) > 0.999
    assert all(r.cosine > 0.999999 for r in rows if "float32" in r.technique)


def test_another_noise_shows_in_the_cosine(monkeypatch):
    right = encode.Study.noisy
    monkeypatch.setattr(encode.Study, "noisy", lambda self, f, n0: right(self, f, n0).flip(-1))
    rows = list(encode.techniques(ON_CPU, "unet-light", (1,), compiled_n0=1))
    assert max(r.cosine for r in rows if r.technique.startswith("fsfast")) < 0.999


def test_operations_are_those_of_the_networks():
    """guided-diffusion's U-Net has 1.1 T multiplications at 256², ViT-L/14 at 336 pixels 0.19 T; 2 operations each."""
    adm, light = (networks.flops(networks.CASES[name]) / 1e12 for name in ("adm256", "unet-light"))
    assert 2.3 < adm < 3.0
    assert 0.4 < light < 1.2


def test_networks_have_the_papers_shapes():
    with torch.device("meta"):
        modules = networks.modules_of(networks.CASES["adm256"])
    count = {stage: sum(p.numel() for p in module.parameters()) for stage, module in modules.items()}
    # Without the time embedding and its 54 million parameters, and without CLIP's last block.
    assert 495e6 < count["purifier"] < 500e6
    assert 288e6 < count["encoder"] < 304e6
    tokens = modules["encoder"](torch.empty((1, 3, 336, 336), device="meta"))
    assert tokens.shape == (1, 576, 1024)


def test_a_certification_is_timed():
    (row,) = encode.certification(ON_CPU, "unet-light", n=4, micro_batch=3)
    assert (row.n, row.micro_batch) == (4, 3)


def test_the_papers_seconds_are_quoted():
    stated = llava.paper_seconds()
    assert set(stated) == {(p, n0) for p in llava.PURIFIERS for n0 in encode.N0}
    assert (stated["adm256", 16], stated["unet-light", 1]) == (2.10, 0.20)


def test_a_language_model_answers():
    pytest.importorskip("transformers", reason="transformers is not installed")
    rows = list(llava.table_s8(ON_CPU, numbers=(1,)))
    assert [(r.purifier, r.paper_seconds) for r in rows] == [("adm256", 0.28), ("unet-light", 0.20)]
    model = llava.LanguageModel(ON_CPU, 64)
    features = torch.randn((9, 64))
    assert len(model.answer(features)) == llava.ANSWER_TOKENS
    assert torch.equal(model.answer(features), model.answer(features))


def test_a_missing_package_skips_a_part_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code = study.main(["llava", "--rehearse", "--out", str(tmp_path)])
    assert code == study.SKIPPED
    assert "llava: import of transformers halted" in capsys.readouterr().err


def test_results_stay_when_a_part_breaks_off(tmp_path):
    def part(place):
        yield encode.CertifyRow("a", 1, 2, 3.0, 4.0, None)
        raise ImportError("no such library")

    with pytest.raises(ImportError):
        study._measured(part(ON_CPU), {"device": "x"}, tmp_path / "a.csv")
    (row,) = csv.DictReader((tmp_path / "a.csv").open())
    assert (row["case"], row["device"]) == ("a", "x")


def test_a_rehearsal_does_not_write_results(capsys):
    with pytest.raises(SystemExit):
        study.main(["certify-adm256", "--rehearse"])
    assert "--out" in capsys.readouterr().err


def test_clocks_and_driver_stand_in_the_results(monkeypatch):
    def answer(command, **_):
        return subprocess.CompletedProcess(command, 0, stdout="580.1, 1980 MHz, 3201 MHz, 700.00 W\n")

    monkeypatch.setattr(harness.subprocess, "run", answer)
    assert harness.driver()["clocks.sm"] == "1980 MHz"
    monkeypatch.setattr(harness.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(OSError))
    assert set(harness.driver().values()) == {"unknown"}
    monkeypatch.setenv("FSFAST_COMMIT", "abc")
    assert harness.commit() == "abc"


@pytest.mark.parametrize(
    ("problems", "free", "library", "says"),
    [
        (["no GPU"], 0, True, "CPU.*no GPU"),
        ([], 8e9, True, "8 GB"),
        ([], 80e9, False, "transformers"),
        ([], 80e9, True, "LLaVA"),
    ],
)
def test_the_scale_of_the_latency_study(monkeypatch, problems, free, library, says):
    monkeypatch.setattr("fsfast.backends.device.place.problems", lambda: problems)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(scale, "find_spec", lambda name: library or None)
    found = scale.chosen()
    assert found.language_model == ("LLaVA" in found.text)
    assert re.search(says, found.text)


def script(*arguments):
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["benchmarks/gpu.sh", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_one_command_runs_parts_and_names_those_that_failed(tmp_path):
    """Without a GPU the kernels cannot be measured; the parts after them run all the same."""
    done = script("--rehearse", "--out", tmp_path, "build", "kernels", "encode-adm256", "certify-adm256")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "failed: kernels (exit code 2)"
    assert {p.name for p in tmp_path.iterdir()} == {"encode-adm256.csv", "certify-adm256.csv"}
    row = next(csv.DictReader((tmp_path / "encode-adm256.csv").open()))
    assert all(row[key] for key in ("commit", "date", "device", "torch"))


def test_parts_that_lack_a_package_are_no_failures(tmp_path):
    """Here and on bare machines: transformers, and what the tests need."""
    raising = "raise ModuleNotFoundError('No module named transformers', name='transformers')"
    (tmp_path / "transformers.py").write_text(raising)
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    command = ["benchmarks/gpu.sh", "--rehearse", "--out", str(tmp_path), "llava"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: llava" in done.stdout.splitlines()
    assert "No module named transformers" in done.stderr


def test_parts_can_be_run_alone_and_unknown_ones_are_refused(tmp_path):
    assert script("--rehearse", "--out", tmp_path, "certify-unet-light").returncode == 0
    done = script("magic")
    assert done.returncode == 2
    assert "got magic" in done.stderr


def test_all_parts_together_take_under_nine_minutes():
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    usual = text.partition("declare -A limit=(")[2].partition("\n)")[0]
    limits = re.findall(r"\[[a-z0-9-]+\]=(\d+)", usual)
    assert len(limits) == 8
    assert sum(map(int, limits)) <= 540
