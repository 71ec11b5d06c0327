"""The GPU study, rehearsed on the CPU with small networks. No timing is asserted."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import scale
from benchmarks.gpu.device import __main__ as study
from benchmarks.gpu.device import (
    baselines,
    bits,
    encode,
    forward,
    llava,
    networks,
    profile,
    smoke,
)
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import NAME, ErrorRow, Table, append_row, read_rows
from benchmarks.measuring import harness
from fsfast.backends.device.lane import Lane
from fsfast.errors import EngineError

ROOT = Path(__file__).parents[2]
ON_CPU = Place(torch.device("cpu"))


def test_every_technique_computes_the_same_directions():
    rows = [*encode.techniques(ON_CPU, "adm256", (1, 3)), *encode.compiled(ON_CPU, "adm256", 3)]
    assert [r.n0 for r in rows] == [1] * 3 + [3] * 5
    assert {r.technique.split(",")[0] for r in rows} >= {"eager float32", "fsfast", "torch.compile bfloat16"}
    # bfloat16 has 8 bits; another noise would give a cosine near that of two samples, far below.
    assert min(r.cosine for r in rows) > 0.999
    assert all(r.cosine > 0.999999 for r in rows if "float32" in r.technique)


def test_another_noise_shows_in_the_cosine(monkeypatch):
    right = encode.Study.noisy
    monkeypatch.setattr(encode.Study, "noisy", lambda self, n0: right(self, n0).flip(-1))
    rows = list(encode.techniques(ON_CPU, "unet-light", (1,)))
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


def test_an_error_is_a_row_and_what_comes_next_goes_on(monkeypatch, tmp_path, capsys):
    def broken(self, image, n0, noisy=None):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(baselines.Baseline, "batched", broken)
    rows = encode.techniques(ON_CPU, "unet-light", (1, 2))
    assert study.record("part", rows, {"device": "x"}, tmp_path) == 2
    written = read_rows(tmp_path / NAME)
    assert [row.get("error") for row in written] == [None, "RuntimeError: out of memory", None] * 2
    assert written[1]["case"] == "eager bfloat16, batched, n0=1"
    assert {(row["part"], row["device"]) for row in written} == {("part", "x")}
    assert "out of memory" in capsys.readouterr().out


def test_a_part_that_fails_says_so_in_its_rows_and_its_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(encode, "function_of", lambda *_: (_ for _ in ()).throw(ValueError("no function")))
    assert study.main(["certify-adm256", "--rehearse", "--out", str(tmp_path)]) == 1
    (row,) = read_rows(tmp_path / NAME)
    assert (row["part"], row["error"]) == ("certify-adm256", "ValueError: no function")


def test_rows_are_json_whatever_their_numbers(tmp_path):
    append_row(tmp_path / NAME, {"cosine": float("nan"), "p50_ms": 1.5, "unit": "µs"})
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"cosine": "nan", "p50_ms": 1.5, "unit": "µs"}


def test_the_networks_in_both_forms(monkeypatch, tmp_path):
    """Their times, bits, kernels; the next process compares its bits with theirs."""
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path / "cache"))
    rows = list(forward.forward(ON_CPU, "adm256", 2, profiled=True))
    assert not [row for row in rows if isinstance(row, ErrorRow)]
    times = [row for row in rows if isinstance(row, forward.ForwardRow)]
    parts = {
        form: [row.stage for row in times if row.variant == form] for form in (forward.OURS, forward.PLAIN)
    }
    stages = ["first run", "whole", "purifier", "encoder", "mapper"]
    assert parts == {forward.OURS: [*stages, "served, n0=2"], forward.PLAIN: stages}
    assert 0 < rows[-1].deviation < 2e-2
    checked = [(row.variant, row.earlier) for row in rows if isinstance(row, bits.BitsRow)]
    assert checked == [(forward.OURS, "kept")] * 3 + [(forward.PLAIN, "")] * 3
    table = [row for row in rows if isinstance(row, Table)][-1].rows
    for form in parts:
        assert sum(row.share for row in table if row.variant == form) == pytest.approx(1)
        assert sum(row.share for row in rows if isinstance(row, profile.KindRow) and row.variant == form) == (
            pytest.approx(1)
        )
    again = list(bits.digests(ON_CPU, "adm256", (2,)))
    assert [(row.stage, row.earlier) for row in again] == [
        (s, "same") for s in ("purifier", "encoder", "mapper")
    ]
    monkeypatch.setattr(bits, "read_cached", lambda *names: b"f00")
    assert "got sha256 f00" in bits.compared(ON_CPU, again[0]).error
    monkeypatch.setattr(bits, "read_cached", lambda *names: None)
    assert "run networks-4" in bits.compared(ON_CPU, again[0]).error


def test_the_plain_graph_is_measured_where_the_served_networks_fail(monkeypatch):
    monkeypatch.setattr(forward, "placed", lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel image")))
    monkeypatch.setattr(forward, "function_of", forward.placed)
    rows = list(forward.forward(ON_CPU, "adm256", 2))
    assert [row.case for row in rows if isinstance(row, ErrorRow)] == [forward.OURS, "served", "deviation"]
    assert "whole" in [row.stage for row in rows if getattr(row, "variant", "") == forward.PLAIN]


def test_rows_that_know_each_other_are_an_error():
    case, lane = networks.case_of("adm256", ON_CPU), Lane(ON_CPU.device)
    good = networks.placed(case, networks.random_modules(case, ON_CPU.device), lane, "bfloat16").stages
    mixing = {"mapper": lambda z: good.run["mapper"](z) + z.mean()}
    with pytest.raises(EngineError, match="mapper: row 0 of 3 changes with its neighbours"):
        list(bits.check(case, "mixing", replace(good, run=mixing), lane, 3))


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, bf16>>", "attention"),
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
            "convolutions",
        ),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float>", "convolutions"),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::BFloat16, float>", "norms"),
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_bias_TNT", "products"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::silu_kernel>", "elementwise"),
        ("Memcpy DtoD (Device -> Device)", "elementwise"),
        ("void unheard_of<float>", "others"),
    ],
)
def test_kernels_have_kinds(kernel, kind):
    assert profile.kind_of(kernel) == kind


def test_our_kernels_are_ours():
    """Those that Triton compiles; helpers that they call are no kernels of their own."""
    folder = ROOT / "fsfast" / "kernels" / "cuda"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    names = re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE)
    assert len(names) > 8
    assert {profile.kind_of(name) for name in names} == {"ours"}


def test_what_nobody_changes_is_counted_once():
    networks.flops.cache_clear()
    case = networks.case_of("adm256", ON_CPU)
    assert networks.flops(case) == networks.flops(case)
    assert networks.flops.cache_info().misses == 1


def test_the_smoke_test_compares_bits_and_replays_a_certificate(monkeypatch):
    monkeypatch.setattr(smoke, "PRECISIONS", ("bfloat16",))
    rows = list(smoke.smoke(ON_CPU, 6))
    assert [row.case for row in rows] == [name for name, *_ in smoke.KERNELS] + ["demo"]
    assert (rows[-1].verdict, rows[-1].n) == ("same", 6)
    monkeypatch.setattr(smoke, "PRECISIONS", ())
    monkeypatch.setattr(smoke, "same_bits", lambda got, wanted: False)
    assert {row.error.partition(":")[0] for row in smoke.smoke(ON_CPU)} == {"AssertionError"}


def test_choosing_algorithms_by_their_time_is_measured_but_not_left_on():
    before = torch.backends.cudnn.benchmark
    found = list(forward.cudnn_benchmark(ON_CPU, "adm256", 2))
    assert [(row.variant.rpartition(" ")[2], row.stage) for row in found] == [
        ("off", "purifier"),
        ("on", "purifier"),
    ]
    assert torch.backends.cudnn.benchmark == before


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


def script(*arguments, **more):
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **more}
    command = ["benchmarks/gpu.sh", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_one_command_runs_parts_and_names_those_that_failed(tmp_path):
    """Without a GPU the kernels cannot be measured; the parts after them run all the same."""
    done = script("--rehearse", "--out", tmp_path, "carried", "kernels", "certify-adm256")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "failed: kernels (exit code 2)"
    assert {p.name for p in tmp_path.iterdir()} == {NAME, "gpu.log"}
    assert (tmp_path / "gpu.log").read_text() == done.stdout
    (row,) = read_rows(tmp_path / NAME)
    assert row["part"] == "certify-adm256"
    assert all(row[key] for key in ("commit", "date", "device", "torch"))


def test_a_half_that_is_ended_leaves_whole_lines_and_no_processes(tmp_path):
    out, marked = tmp_path / "out", {"FSFAST_CACHE": str(tmp_path / "cache")}
    command = ["benchmarks/gpu.sh", "--rehearse", "--out", str(out), "networks-4", "networks-16"]
    environment = {**os.environ, "PYTHON": sys.executable, **marked}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: (out / NAME).exists() and (out / NAME).read_bytes().count(b"\n") > 5)
    running.terminate()
    assert running.wait() == 128 + signal.SIGTERM
    assert {row["part"] for row in read_rows(out / NAME)} == {"networks-4"}
    assert "networks-4: case adm256" in (out / "gpu.log").read_text()
    wait_for(lambda: str(out) not in "".join(commands()))


def commands():
    """The command lines of this machine's processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


WRITER = """
import sys
from itertools import count
from pathlib import Path
from benchmarks.gpu.device.rows import NAME, append_row
from benchmarks.measuring.files import write_table
folder, rows = Path(sys.argv[1]), []
for number in count():
    rows.append({"number": number, "text": "µ" * 5000})
    append_row(folder / NAME, rows[-1])
    write_table(folder / "table.csv", rows[-20:])
"""


def test_a_killed_writer_leaves_whole_files(tmp_path):
    for number in range(3):
        folder = tmp_path / str(number)
        writing = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], cwd=ROOT)
        wait_for(lambda folder=folder: (folder / "table.csv").exists())
        time.sleep(random.uniform(0, 0.2))
        writing.kill()
        writing.wait()
        rows = read_rows(folder / NAME)
        assert [row["number"] for row in rows] == list(range(len(rows)))
        table = list(csv.DictReader((folder / "table.csv").open(encoding="utf-8")))
        assert {len(row["text"]) for row in [*rows, *table]} == {5000}


def test_parts_that_lack_a_package_are_no_failures(tmp_path):
    """Here and on bare machines: transformers, and what the tests need."""
    (tmp_path / "python").write_text(f"#!/bin/sh\nexit {study.SKIPPED}\n")
    (tmp_path / "python").chmod(0o755)
    done = script("--out", tmp_path, "llava", PYTHON=str(tmp_path / "python"))
    assert done.returncode == 0, done.stdout
    assert "skipped: llava" in done.stdout.splitlines()


def test_wrong_arguments_are_refused(tmp_path):
    for arguments, says in ((["magic"], "got magic"), (["--rehearse", "smoke"], "--rehearse wants --out")):
        done = script(*arguments)
        assert done.returncode == 2
        assert says in done.stderr


def test_each_half_takes_four_minutes():
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    limits = {name: int(seconds) for name, seconds in re.findall(r"\[([a-z0-9-]+)\]=(\d+)", text)}
    halves = [re.search(rf"^{half}=\((.*)\)$", text, re.MULTILINE)[1].split() for half in ("first", "second")]
    assert [sum(limits[part] for part in half) for half in halves] == [240, 240]
    assert re.search(r"^half_s=240$", text, re.MULTILINE)
    known = {
        *study.PARTS,
        "carried",
        "build",
        "tests",
        "tests-kernels",
        "tests-runtime",
        "kernels",
        "gpu-parts",
    }
    assert set(limits) == known


def limits(folder, *arguments, takes=0):
    """(seconds, seconds to end) of each process: nothing runs but what would limit it."""
    (folder / "timeout").write_text(f'#!/bin/sh\nsleep {takes}\necho "limits $2 $3"\n')
    (folder / "timeout").chmod(0o755)
    stubs = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": "true"}
    done = script("--out", folder / "out", *arguments, **stubs)
    found = re.findall(r"^limits --kill-after=(\d+) (\d+)$", done.stdout, re.MULTILINE)
    return [(int(seconds), int(grace)) for grace, seconds in found]


def test_what_a_part_leaves_of_its_time_others_may_take(tmp_path):
    """Outside of halves a part has its own time. pytest waits ten seconds for its workers before it reports."""
    *parts, alone, tests = limits(tmp_path, "second", "certify-adm256", "tests-kernels")
    assert (alone, tests) == ((26, 4), (31, 14))
    # Two processes of the first part; starting all of them takes a while on a slow machine.
    for (seconds, grace), end in zip(parts, (20, 20, 45, 75, 125, 165, 185, 240), strict=True):
        assert end - 60 < seconds + grace <= end


def test_a_part_that_is_late_has_its_own_time_but_a_half_ends(tmp_path, monkeypatch):
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    shorter = {"half_s=240": "half_s=9", "[carried]=20": "[carried]=2", "[digests]=25": "[digests]=3"}
    for usual, hurried in {**shorter, "grace_s=4 ": "grace_s=1 "}.items():
        text = text.replace(usual, hurried)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu.sh").write_text(text)
    (tmp_path / "benchmarks" / "gpu.sh").chmod(0o755)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    _, _, digests, *others = limits(tmp_path, "second", takes=2)
    assert digests == (2, 1)
    assert all(sum(pair) <= 9 - 3 * 2 for pair in others)
