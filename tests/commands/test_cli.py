"""The command line as its users meet it: output, files, exit codes, errors of one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.certificates.reading import parse_certificate
from fsfast.cli import _parse, _parser
from fsfast.files import check_target, write_whole
from fsfast.installation import clone, pip_install_extras
from fsfast.report.examples import load_examples
from fsfast.runtime.progress import progress_bar


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
    for command in ("demo", "inspect", "info", "doctor", "encode", "certify", "verify", "bench", "export"):
        assert command in out
        code, text, _ = fs(command, "--help")
        assert code == 0
        assert "usage: fsfast" in text


def test_info(fs, demo_path):
    code, out, _ = fs("info")
    assert code == 0
    assert "σ = 0.25" in out
    assert "purifier" in out
    record = json.loads(fs("info", demo_path, "--json")[1])
    assert record["manifest"]["name"] == "demo"


def test_what_follows_export_is_the_exporters():
    args = _parse(_parser(), ["-v", "export", "vit-b16-random", "--out", "x"])
    assert (args.verbose, args.arguments) == (True, ["vit-b16-random", "--out", "x"])
    assert _parse(_parser(), ["info", "export"]).engine == "export"


def test_doctor(fs):
    code, out, _ = fs("doctor")
    assert code == 0
    assert "onnxruntime" in out
    assert "cuda" in out
    assert "backend auto" in out
    assert f"the clone in {clone()}," in out
    findings = json.loads(fs("doctor", "--json")[1])
    assert findings["kernels"][0] is True
    assert findings["export"] == [True, "fsfast export builds engines"]


def test_doctor_says_what_exporting_needs(fs, monkeypatch):
    monkeypatch.setattr("fsfast.commands.doctor.find_spec", lambda name: None if name == "torch" else name)
    usable, remark = json.loads(fs("doctor", "--json")[1])["export"]
    assert not usable
    assert remark == f"not installed: torch; to build engines: {pip_install_extras('export')}"


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


def test_what_is_printed_is_no_more_than_is_so(fs, photos, random_path, tmp_path):
    """No probability is rounded up; a class of an engine that knows few, and random weights, are named as such."""
    code, out, err = fs("certify", "demo", photos[0], "-n", 40, "--alpha", "1e-7")
    assert code == 0
    assert "With probability ≥ 0.9999999 per image" in out
    caveat = (
        "knows only the classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, star; of other pictures it names the nearest"
    )
    assert caveat in " ".join(out.split())
    code, out, err = fs(
        "encode", random_path, photos[0], "-o", tmp_path / "x.npz", "--n0", 1, "--micro-batch", 2
    )
    assert code == 0
    assert "This engine's networks have random weights" in out
    assert err.startswith("fsfast encode: micro_batch = 2 with 1 image × n0 = 1 leaves 1 of 2 rows idle")


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
    assert "another n (30 there, 31 now); choose another file for --output" in err


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


def test_bench_compares_precisions_and_recommends_one(fs, reduced_path):
    code, out, _ = fs("bench", reduced_path, "--n0", 1, "--runs", 1)
    assert code == 0
    assert "recommended: backend=" in out
    assert "around them" in out
    measured = json.loads(fs("bench", reduced_path, "--n0", 1, "--runs", 1, "--json")[1])
    found = {(m["backend"], m["precision"]): m for m in measured["variants"]}
    assert {("onnxruntime", "float32"), ("onnxruntime", "int8")} <= found.keys()
    assert found["onnxruntime", "float32"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert 0.999 < found["onnxruntime", "int8"]["cosine"] < 1.0
    assert found["onnxruntime", "int8"]["steps_ms"]["encoder"] > 0
    chosen = measured["recommended"]
    assert measured["profile"]["precision"] == chosen["precision"]
    # What cannot be promised is not recommended: float32 alone has a cosine of 1.
    strict = fs("bench", reduced_path, "--n0", 1, "--runs", 1, "--cosine", "0.9999999", "--json")[1]
    assert json.loads(strict)["recommended"]["precision"] == "float32"


def test_bench_of_one_pair(fs, reduced_path):
    options = ("--backend", "onnxruntime", "--precision", "int8", "--n0", 1, "--runs", 1, "--json")
    measured = json.loads(fs("bench", reduced_path, *options)[1])
    assert [(m["backend"], m["precision"]) for m in measured["variants"]] == [("onnxruntime", "int8")]
    assert fs("bench", "demo", "--precision", "int8", "--runs", 1)[0] == 2


def test_info_says_what_auto_means(fs, reduced_path):
    _, out, _ = fs("info", reduced_path)
    assert "int8: onnxruntime, named by FSFAST_BACKEND" in out
    assert "encoder.int8.onnx" in out


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
        ("certify", "demo", "x.png", "--epsilon", "1e7"),
        ("certify", "demo", "x.png", "--epsilon", "nan"),
        ("certify", "demo", "x.png", "--n", "0"),
        ("certify", "demo", "x.png", "--n0", "-1"),
        ("certify", "demo", "x.png", "--seed", "0x10000000000000000"),
        ("certify", "demo", "x.png", "--served", "nowhere.npz"),
        ("certify", "demo", "x.png", "--served", "f.npz", "--n0", "4"),
        ("certify", "demo", "x.png", "--served", "f.npz", "--anchor", "clean"),
        ("certify", "demo", "x.png", "--stages", "encoder,magic"),
        ("encode", "demo", "x.png", "-o", "nowhere/x.npz"),
        ("bench", "demo", "--runs", "0"),
        ("bench", "demo", "--runs", "1000000000"),
        ("bench", "demo", "--n0", "4", "99999999999"),
        ("demo", "--micro-batch", "99999999999"),
        ("demo", "--threads", "99999999999"),
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


def _fsfast(*args, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "fsfast", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    "content",
    [
        b"my notes, without an end of line",
        b"my notes\nof two lines, and no end",
        b"{}\n",
        b'{"format": "fsfast-certificate"}\n',
        b'{"format": "fsfast-features", "sche',
        b"[" * 100_000 + b"\n",
        b"\x89PNG\r\n\x1a\n\x00\x00",
    ],
    ids=["one line", "two lines", "JSON", "only the head", "another format", "nested", "binary"],
)
def test_certify_leaves_files_of_others_as_they_are(fs, photos, tmp_path, content):
    target = tmp_path / "notes"
    target.write_bytes(content)
    code, out, err = fs("certify", "demo", photos[0], "--n", 5, "-o", target)
    assert (code, out) == (2, "")
    assert "choose another file for --output" in err
    assert target.read_bytes() == content


def test_certify_keeps_a_cut_line_when_an_earlier_one_is_not_ours(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    target.write_bytes(content := b'{"a": 1}\n{"format": "fsfast-certificate", "sch')
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", target)[0] == 2
    assert target.read_bytes() == content


def test_certify_completes_a_line_that_lacks_only_its_end(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", target)[0] == 0
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    code, _, err = fs("certify", "demo", photos[0], "--n", 5, "-o", target)
    assert code == 0
    assert "done before" in err
    assert target.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (("--n", 6), "n (5 there, 6 now)"),
        (("--alpha", 0.01), "alpha"),
        (("--method", "hoeffding"), "method"),
        (("--anchor", "clean"), "anchor"),
        (("--n0", 3), "n0"),
        (("--seed", 8), "seed (7 there, 8 now)"),
        (("--micro-batch", 2), "engine or profile"),
        (("--stages", "purifier,encoder"), "engine or profile"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_resume_refuses_other_settings(fs, photos, tmp_path, options, setting):
    target = tmp_path / "c.jsonl"
    first = ("certify", "demo", photos[0], "--n", 5, "--seed", 7, "-o", target)
    assert fs(*first)[0] == 0
    content = target.read_bytes()
    code, _, err = fs(*first, *options)
    assert code == 2
    assert f"line 1, has another {setting}" in err
    assert target.read_bytes() == content


def test_resume_without_n0_means_the_default_of_the_engine(fs, photos, tmp_path):
    common = ("certify", "demo", photos[0], "--n", 5, "-o", tmp_path / "c.jsonl")
    assert fs(*common, "--n0", 4)[0] == 0
    assert "done before" in fs(*common)[2]


def test_resume_refuses_a_forged_line(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    common = ("certify", "demo", photos[0], "--n", 5, "-o", target)
    assert fs(*common)[0] == 0
    record = json.loads(target.read_text())
    record["constants"]["mean"] = 0.9999
    target.write_text(json.dumps(record) + "\n")
    code, _, err = fs(*common)
    assert code == 2
    assert "altered" in err


def test_certify_what_was_served(fs, photos, tmp_path):
    served = tmp_path / "f.safetensors"
    assert fs("encode", "demo", photos[0], photos[2], "-o", served, "--n0", 3)[0] == 0
    features = fsfast.load_features(served)
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    # Another order, and an image that was not served.
    names = (photos[2], tmp_path / "other.png", photos[0])
    common = ("certify", "demo", *names, "--n", 9, "--served", served)
    code, out, err = fs(*common, "-o", tmp_path / "c.jsonl", "--json")
    assert code == 1
    assert err.count("\n") == 1
    assert "other.png" in err
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["anchor"]["seed"] for r in records] == [f"0x{int(features.seeds[i]):016x}" for i in (1, 0)]
    assert {r["anchor"]["n0"] for r in records} == {3}
    assert fs("verify", tmp_path / "c.jsonl", photos[0])[1] == "same\n"
    assert "2 of the images were done before" in fs(*common, "-o", tmp_path / "c.jsonl")[2]
    # The same images served again have other directions.
    assert fs("encode", "demo", photos[0], photos[2], "-o", served, "--n0", 3)[0] == 0
    code, _, err = fs(*common, "-o", tmp_path / "c.jsonl")
    assert code == 2
    assert "another served direction" in err


def test_certify_refuses_two_directions_of_one_image(fs, photos, tmp_path):
    served = tmp_path / "f.npz"
    assert fs("encode", "demo", photos[0], photos[0], "-o", served)[0] == 0
    code, _, err = fs("certify", "demo", photos[0], "--served", served, "--n", 5)
    assert code == 2
    assert "two directions of one image" in err


def test_certify_refuses_what_another_profile_served(fs, photos, tmp_path):
    served = tmp_path / "f.npz"
    assert fs("encode", "demo", photos[0], "-o", served, "--micro-batch", 2)[0] == 0
    code, _, err = fs("certify", "demo", photos[0], "--served", served, "--n", 5)
    assert code == 2
    assert "another engine or execution profile" in err


_WITHOUT_EXTENSION = """
import sys
sys.modules["fsfast.kernels._cpu"] = None
from fsfast.cli import main
from fsfast.report.examples import load_examples
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--help",), 0),
        (("--version",), 0),
        (("info",), 0),
        (("doctor",), 1),
        (("demo",), 2),
        (("bench", "demo"), 2),
    ],
    ids=str,
)
def test_without_the_compiled_extension(args, code):
    command = [sys.executable, "-c", _WITHOUT_EXTENSION, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    if code:
        assert "the C++ extension of fsfast does not load" in done.stdout + done.stderr
        assert f"pip install -e {clone()}" in done.stdout + done.stderr


def test_the_command_line_loads_no_kernels_before_they_are_needed():
    code = (
        "import sys, fsfast.cli; print([m for m in sys.modules if m.startswith(('fsfast.kernels', 'scipy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_file_names_that_are_no_text(fs, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    broken = os.fsencode(tmp_path) + b"/br\xe9ken.png"
    with open(name, "wb") as handle:
        handle.write(photos[0].read_bytes())
    with open(broken, "wb") as handle:
        handle.write(b"nothing")
    target = os.fsencode(tmp_path) + b"/\xff.npz"
    done = subprocess.run(
        [sys.executable, "-m", "fsfast", "encode", "demo", name, broken, "-o", target, "--json"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert b"ken.png" in done.stderr
    assert b"Traceback" not in done.stderr
    assert json.loads(done.stdout)["images"][0].endswith("caf\\xe9.png")
    path, journal = os.fsdecode(name), tmp_path / "c.jsonl"
    assert fs("certify", "demo", path, "--n", 5, "-o", journal)[0] == 0
    assert json.loads(journal.read_text())["image"]["name"].endswith("caf\\xe9.png")
    assert fs("verify", journal, path)[0] == 0
    code, out, _ = fs("demo", "--image", path, "--n", 5, "--json", "-o", tmp_path / "kept")
    assert code == 0
    assert json.loads(out)["images"][0]["file"].endswith("caf\\xe9.png")


def test_output_where_the_terminal_knows_only_ascii():
    done = _fsfast("info", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u03c3 = 0.25" in done.stdout


@pytest.mark.parametrize("command", ["encode", "certify"])
@pytest.mark.parametrize("target", ["missing/x.npz", "folder.npz", "pipe.npz"])
def test_the_output_is_checked_before_the_work(fs, photos, tmp_path, monkeypatch, command, target):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    monkeypatch.setattr("fsfast.commands.encoding.open_encoder", None)
    monkeypatch.setattr("fsfast.commands.certify.open_encoder", None)
    code, out, err = fs(command, "demo", photos[0], "-o", tmp_path / target)
    assert (code, out) == (2, "")
    assert str(tmp_path / target) in err
    assert ".part" not in err


def test_a_demo_folder_that_is_a_file(fs, photos):
    code, _, err = fs("demo", "-o", photos[0])
    assert code == 2
    assert str(photos[0]) in err


def test_check_target_asks_for_permission(tmp_path, monkeypatch):
    # The superuser may write everywhere; so the answer of the system is replaced.
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)) or False)
    (tmp_path / "x").write_text("")
    for append in (False, True):
        with pytest.raises(PermissionError, match="no permission"):
            check_target(tmp_path / "x", append=append)
    assert asked == [(tmp_path, os.W_OK | os.X_OK), (tmp_path / "x", os.W_OK)]


@pytest.mark.parametrize("target", ["missing/x", "folder", "n" * 300], ids=["missing", "folder", "long"])
def test_write_whole_names_the_target(tmp_path, target):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:  # noqa: PT011 the kind of error is the system's choice
        write_whole(tmp_path / target, b"x")
    assert caught.value.filename == str(tmp_path / target)
    assert caught.value.filename2 is None
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_write_whole_takes_the_longest_name(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


@pytest.mark.parametrize("args", [("info", "demo", "--json"), ("info",), ("--help",), ("certify", "--help")])
def test_a_reader_that_leaves_is_no_error(args):
    ours, theirs = os.pipe()
    # Nobody reads: the first write fails.
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "fsfast", *args], stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    # argparse itself takes no notice when its help cannot be printed.
    assert done.returncode == (0 if "--help" in args else 141)
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fsfast", "info"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"fsfast info: ")
    assert done.stderr.count(b"\n") == 1


def test_verify_runs_the_engine_as_the_certificate_says(fs, photos, tmp_path):
    target = tmp_path / "c.json"
    options = ("--micro-batch", 3, "--stages", "encoder,purifier")
    assert fs("certify", "demo", photos[0], "--n", 7, *options, "-o", target)[0] == 0
    assert fs("verify", target, photos[0])[:2] == (0, "same\n")
    code, out, _ = fs("verify", target, photos[0], "--micro-batch", 1)
    assert code == 1
    assert "micro_batch: 3 there, 1 here" in out


def test_verify_checks_every_certificate_about_the_image(fs, photos, tmp_path):
    # The suffix decides nothing.
    target = tmp_path / "many.json"
    lines = []
    for options in ((photos[0],), (photos[2],), (photos[0], "--micro-batch", 2)):
        assert fs("certify", "demo", *options, "--n", 5, "-o", tmp_path / "one")[0] == 0
        lines.append((tmp_path / "one").read_text())
        (tmp_path / "one").unlink()
    target.write_text("".join(lines))
    assert fs("verify", target, photos[0])[:2] == (0, "same\nsame\n")
    # Its scores are consistent with its bounds, but come from no seed.
    target.write_text("".join(lines[:2]) + _with_other_scores(lines[2]))
    code, out, _ = fs("verify", target, photos[0])
    assert code == 1
    assert out.startswith("same\ndifferent:\n")
    code, out, err = fs("verify", target, photos[0], "--json")
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["same", "different"]
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    code, _, err = fs("verify", target, tmp_path / "other.png")
    assert code == 2
    assert "no certificate about this image" in err


def _with_other_scores(line):
    honest = parse_certificate(json.loads(line))
    return json.dumps(replace(honest, scores=honest.scores - 2.0**-10).to_record()) + "\n"


def test_verify_reads_a_certificate_on_many_lines_and_a_file_that_was_cut(fs, photos, tmp_path):
    whole, pretty = tmp_path / "c", tmp_path / "pretty.jsonl"
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", whole)[0] == 0
    fsfast.load_certificate(whole).save(pretty)
    assert fs("verify", pretty, photos[0])[:2] == (0, "same\n")
    whole.write_text(whole.read_text() * 2 + '{"format": "fsfast-cert')
    code, out, err = fs("verify", whole, photos[0])
    assert (code, out) == (0, "same\nsame\n")
    assert "the last line is cut off" in err
    whole.write_text(pretty.read_text() + "notes\n")
    code, _, err = fs("verify", whole, photos[0])
    assert code == 2
    assert "line 1, is not a certificate" in err


def test_too_little_memory_is_one_line(fs, monkeypatch):
    def none_left(*args):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("fsfast.commands.demo.open_encoder", none_left)
    code, _, err = fs("demo")
    assert (code, err) == (2, "fsfast demo: not enough memory: Unable to allocate 9 TiB\n")


def test_no_progress_bar_unless_stderr_is_a_terminal(fs, photos, monkeypatch, capsys):
    import tqdm.auto

    # The bar waits for a second; without that a short run shows whether it would come.
    real = tqdm.auto.tqdm
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **o: real(**{**o, "delay": 0, "mininterval": 0}))
    with progress_bar(True, 5, "shown") as advance:
        advance(5)
    assert "shown" in capsys.readouterr().err
    assert fs("certify", "demo", photos[0], "--n", 30)[2] == ""


def test_verbose_says_what_was_chosen(photos, tmp_path):
    quiet = _fsfast("encode", "demo", str(photos[0]), "-o", str(tmp_path / "x.npz"))
    assert (quiet.returncode, quiet.stderr) == (0, "")
    said = _fsfast("-v", "encode", "demo", str(photos[0]), "-o", str(tmp_path / "x.npz"))
    assert said.returncode == 0
    assert said.stderr.startswith("fsfast: ")
    assert "onnxruntime" in said.stderr


def test_verify_names_the_engine_that_is_wanted(fs, photos, tmp_path, pooled_path):
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", tmp_path / "c")[0] == 0
    code, out, err = fs("verify", tmp_path / "c", photos[0], "--engine", pooled_path)
    assert (code, out) == (2, "")
    assert "belongs to the engine 'demo'" in err


def test_certify_until_a_target_and_plot(fs, tmp_path):
    image = str(load_examples()[0].image)
    code, out, _ = fs("certify", "demo", image, "--until", 0.25, "--n-max", 300, "--plot", tmp_path / "c.svg")
    assert code == 0
    assert "class" in out
    assert (tmp_path / "c.svg").read_text().startswith("<svg ")
    code, out, _ = fs("certify", "demo", image, "--until", 2.0, "--n-max", 50)
    assert code == 0
    assert "not certified with n = 50 (n_max)" in out
    for wrong in (
        ("--cosine", 0.5),
        ("--until", 0.1, "--n", 5),
        ("--until", 0.1, "--per-token"),
        ("--plot", "c.png"),
    ):
        code, _, err = fs("certify", "demo", image, *wrong)
        assert code == 2
        assert err.count("\n") == 1


def test_a_plot_needs_something_new_and_matplotlib(fs, tmp_path, monkeypatch):
    image, target, plot = str(load_examples()[0].image), tmp_path / "c.jsonl", tmp_path / "c.svg"
    assert fs("certify", "demo", image, "--n", 5, "-o", target)[0] == 0
    code, _, err = fs("certify", "demo", image, "--n", 5, "-o", target, "--plot", plot)
    assert (code, "nothing is drawn" in err, plot.exists()) == (0, True, False)
    # Before any sample is drawn.
    monkeypatch.setattr("fsfast.commands.plotting.find_spec", lambda name: None)
    monkeypatch.setattr(fsfast.SmoothedEncoder, "certify", None)
    code, _, err = fs("certify", "demo", image, "--n", 5, "--plot", plot)
    assert (code, pip_install_extras("plot") in err) == (2, True)


def test_verify_notes_another_file_with_the_same_pixels(fs, photos, tmp_path):
    target, copy = tmp_path / "c", tmp_path / "copy.png"
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", target)[0] == 0
    Image.open(photos[0]).save(copy, compress_level=0)
    code, out, _ = fs("verify", target, copy)
    assert code == 0
    assert out.startswith("same\n  note: the certificate names another source")
    assert "sha256" in out
    assert json.loads(fs("verify", target, copy, "--json")[1])["notes"]


def test_resuming_keeps_the_kind_of_sampling(fs, tmp_path):
    image, target = str(load_examples()[0].image), tmp_path / "c.jsonl"
    assert fs("certify", "demo", image, "--until", 0.25, "--n-max", 200, "-o", target)[0] == 0
    code, _, err = fs("certify", "demo", image, "--n", 200, "-o", target)
    assert code == 2
    assert "stopping" in err
    code, _, err = fs("certify", "demo", image, "--until", 0.25, "--n-max", 200, "-o", target)
    assert (code, "done before" in err) == (0, True)


def test_verify_fresh(fs, tmp_path):
    image, target = str(load_examples()[0].image), tmp_path / "c.jsonl"
    assert fs("certify", "demo", image, "--n", 100, "-o", target)[0] == 0
    code, out, _ = fs("verify", target, image, "--fresh")
    assert code == 0
    assert "not refuted by new noise (n = 100)" in out
    code, out, _ = fs("verify", target, image, "--fresh", "--json")
    found = json.loads(out)
    assert found["refuted"] == []
    assert {b["epsilon"] for b in found["bounds"]} == {0.125, 0.25, 0.5}


def test_an_altered_certificate_is_different_not_wrong_use(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    for photo in (photos[0], photos[0]):
        assert fs("certify", "demo", photo, "--n", 5, "-o", tmp_path / "one")[0] == 0
        target.write_text((target.read_text() if target.exists() else "") + (tmp_path / "one").read_text())
        (tmp_path / "one").unlink()
    first, second = target.read_text().splitlines()
    record = json.loads(first)
    record["constants"]["mean"] = 0.9999
    target.write_text(json.dumps(record) + "\n" + second + "\n")
    code, out, err = fs("verify", target, photos[0])
    assert (code, err) == (1, "")
    assert out.startswith("different:\n")
    assert "line 1 was altered" in out
    assert out.endswith("same\n")
    verdicts = [
        json.loads(line)["verdict"] for line in fs("verify", target, photos[0], "--json")[1].splitlines()
    ]
    assert verdicts == ["different", "same"]


def test_bounds_are_stated_at_the_radii_asked_for(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    code, out, _ = fs(
        "certify", "demo", photos[0], "--n", 5, "--epsilon", 0.01, 0.111, "--json", "-o", target
    )
    assert code == 0
    assert [bound["epsilon"] for bound in json.loads(out)["bounds"]] == [0.01, 0.111]
    assert fs("verify", target, photos[0])[:2] == (0, "same\n")


def test_resuming_shows_what_is_done(fs, photos, tmp_path):
    target = tmp_path / "c.jsonl"
    assert fs("certify", "demo", photos[0], "--n", 5, "-o", target)[0] == 0
    code, out, err = fs("certify", "demo", photos[0], "--n", 5, "-o", target)
    assert (code, "done before" in err) == (0, True)
    assert out.splitlines()[2].startswith("a.png")
    assert len(fsfast.load_certificates(target)) == 1


def test_per_token_shows_tokens(fs, photos):
    out = fs("certify", "demo", photos[0], "--n", 60, "--per-token")[1]
    assert "tokens: cos ≥ at ε=0.125" in out
    assert "…" in out


def test_a_secret_may_be_any_bytes(fs, photos, monkeypatch, tmp_path):
    monkeypatch.setenv("FSFAST_SECRET", os.fsdecode(bytes(range(128, 160))))
    for name in ("a", "b"):
        assert fs("certify", "demo", photos[0], "--n", 5, "-o", tmp_path / name)[0] == 0
    a, b = (fsfast.load_certificate(tmp_path / name) for name in ("a", "b"))
    assert (a.seed_origin, a.seed) == ("secret", b.seed)


def test_doctor_tells_of_a_stack(fs):
    code, out, _ = fs("doctor", "--stack", "vllm")
    assert "fsfast.integrations.vllm:" in out
    assert "plugin:" in out
    assert code == (0 if "\nno " not in f"\n{out}" else 1)
    code, _, err = fs("doctor", "--stack", "vlm")
    assert (code, "did you mean 'vllm'?" in err) == (2, True)


def test_every_stack_has_a_page_and_an_entry(fs):
    from fsfast.integrations.hosts import HOSTS

    docs = Path(__file__).parents[2] / "docs"
    pages = {f"stacks/{path.name}" for path in (docs / "stacks").glob("*.md")} - {"stacks/index.md"}
    assert {host.page for host in HOSTS.values()} - {"ray.md"} == pages
    for name in HOSTS:
        findings = json.loads(fs("doctor", "--stack", name, "--json")[1])
        assert findings.keys() >= {HOSTS[name].package, "in use"}
