"""The engine on disk: every damage is found before a runtime sees a byte."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from fsfast.engine.engine import MANIFEST, SEAL, engine_path, load_engine
from fsfast.engine.schedule import Denoise
from fsfast.errors import EngineError
from fsfast.kernels.tables import noise_reach
from tests.forging import replace_file, rewrite


def test_the_built_in_engine_loads(demo_path):
    engine = load_engine("demo")
    assert engine.path == demo_path
    assert engine.digest == hashlib.sha256((demo_path / MANIFEST).read_bytes()).hexdigest()
    assert engine.manifest.sigma == 0.25
    assert list(engine.manifest.stages) == ["purifier", "encoder", "mapper"]
    assert engine.thresholds.dtype == np.uint64


def test_the_seal_is_what_sha256sum_reads(demo_path):
    digest, name = (demo_path / SEAL).read_text().split()
    assert (digest, name) == (hashlib.sha256((demo_path / MANIFEST).read_bytes()).hexdigest(), MANIFEST)


@pytest.mark.parametrize("name", ["nowhere", "no/such/engine"])
def test_a_missing_engine(name):
    with pytest.raises(EngineError, match=r"built-in one \(demo, photo, photo-0.12\)"):
        load_engine(name)


def test_a_file_is_not_an_engine(tmp_path):
    (tmp_path / "x").write_text("hello")
    with pytest.raises(EngineError, match="is a directory"):
        load_engine(tmp_path / "x")


def test_every_missing_file_is_named(engine):
    for name in sorted(os.listdir(engine)):
        (engine / name).rename(engine.parent / "aside")
        with pytest.raises(EngineError, match=f"{name} is missing"):
            load_engine(engine)
        (engine.parent / "aside").rename(engine / name)
    load_engine(engine)


def test_every_truncated_file_is_refused(engine):
    for name in sorted(os.listdir(engine)):
        content = (engine / name).read_bytes()
        (engine / name).write_bytes(content[:-1])
        with pytest.raises(EngineError, match=r"truncated|altered"):
            load_engine(engine)
        (engine / name).write_bytes(content)


def test_a_byte_flipped_anywhere_is_found(engine):
    """Random places in every file, the manifest's white space and the seal included."""
    random = np.random.default_rng(0)
    for name in sorted(os.listdir(engine)):
        content = (engine / name).read_bytes()
        for place in {0, len(content) - 1, *random.integers(0, len(content), 12).tolist()}:
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(random.integers(8))
            (engine / name).write_bytes(damaged)
            with pytest.raises(EngineError, match="altered"):
                load_engine(engine)
        (engine / name).write_bytes(content)
    load_engine(engine)


def test_every_byte_of_the_manifest_counts(engine):
    content = (engine / MANIFEST).read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (engine / MANIFEST).write_bytes(damaged)
        with pytest.raises(EngineError):
            load_engine(engine)


def test_an_unknown_file(engine):
    (engine / "extra.bin").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"unknown file 'extra\.bin'"):
        load_engine(engine)


@pytest.mark.parametrize("name", [MANIFEST, "noise.npy"])
def test_a_link(engine, name):
    (engine / name).rename(engine.parent / name)
    (engine / name).symlink_to(engine.parent / name)
    with pytest.raises(EngineError, match="link"):
        load_engine(engine)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", ""])
def test_an_escaping_path(engine, name):
    rewrite(engine, lambda record: record["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(EngineError, match="malformed"):
        load_engine(engine)


def test_weights_outside_the_engine(engine):
    """A forged graph whose external data points elsewhere is refused although every hash agrees."""
    graph = (engine / "encoder.float32.onnx").read_bytes()
    forged = graph.replace(b"weights.float32.safetensors", b"../../../../etc/passwd_xxxx")
    assert forged != graph
    replace_file(engine, "encoder.float32.onnx", forged)
    loaded = load_engine(engine)
    with pytest.raises(EngineError, match=r"encoder\.float32\.onnx: .* outside .*do not use this engine"):
        loaded.graph("encoder", "float32")


def test_a_newer_engine(engine):
    rewrite(engine, lambda record: record.update(schema=99))
    with pytest.raises(EngineError, match="upgrade fsfast"):
        load_engine(engine)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("sigma"), "sigma"),
        (lambda r: r.update(sigma=-1), "sigma"),
        (lambda r: r.update(surprise=1), "surprise"),
        (lambda r: r.update(denoise=None), "purifier"),
        (lambda r: r.update(golden="other.safetensors"), "other"),
        (lambda r: r["output"].update(kind="pooled"), "one token"),
        (lambda r: r.update(sigma=0.3), "purifier's step"),
        (lambda r: r.update(sigma=0.3, denoise=asdict(Denoise.at_sigma(0.3))), "noise.npy"),
        (lambda r: r["denoise"].update(alpha_bar=0.5), "purifier's step"),
        (lambda r: r.update(n0=4.0), "n0 must be written as an integer"),
        (lambda r: r["grid"].update(height=64.0), "grid.height"),
        (lambda r: r["noise"].update(version=True), "noise.version"),
        (lambda r: r["normalise"].update(mean=[float("nan"), 0, 0]), "not the manifest"),
        (lambda r: r["normalise"].update(mean=[10**400, 0, 0]), "mean"),
        (lambda r: r["normalise"].update(std=[1e-300, 1, 1]), "std"),
        (lambda r: r["output"].update(tokens=65536, dim=65536), "at most 16777216 elements"),
        (lambda r: r["stages"]["encoder"]["float32"].update(batch=[4, 1]), "is empty"),
        (lambda r: r["stages"]["encoder"]["float32"].update(tolerance=1e30), "tolerance"),
        (lambda r: r["stages"]["encoder"]["float32"].update(arithmetic="float8"), "arithmetic"),
        (lambda r: r["stages"]["encoder"]["float32"].update(weights="other.safetensors"), "other"),
        (lambda r: r["stages"]["encoder"].update(int4=r["stages"]["encoder"]["float32"]), "encoder"),
        (lambda r: r.update(format="something"), "not the manifest"),
        (lambda r: r["stages"].pop("encoder"), "encoder"),
    ],
    ids=[
        "missing",
        "negative",
        "unknown-key",
        "no-denoise",
        "unlisted",
        "pooled",
        "other-sigma",
        "other-noise",
        "other-alpha-bar",
        "float-count",
        "float-size",
        "bool-version",
        "nan",
        "huge-mean",
        "tiny-std",
        "huge-features",
        "empty-batch",
        "no-tolerance-at-all",
        "arithmetic",
        "other-weights",
        "precision",
        "format",
        "no-encoder",
    ],
)
def test_a_manifest_that_makes_no_sense(engine, change, says):
    rewrite(engine, change)
    with pytest.raises(EngineError, match=says):
        load_engine(engine)


def test_a_file_that_changes_after_loading(engine):
    loaded = load_engine(engine)
    content = (engine / "golden.safetensors").read_bytes()
    (engine / "golden.safetensors").write_bytes(bytes(len(content)))
    with pytest.raises(EngineError, match="altered"):
        loaded.read("golden.safetensors")


def test_a_huge_manifest_is_not_read(engine):
    with open(engine / MANIFEST, "ab") as handle:
        handle.truncate(5 << 20)
    with pytest.raises(EngineError, match="at most"):
        load_engine(engine)


def test_a_built_in_name_is_not_shadowed_by_a_folder(demo_path, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert engine_path("demo") == demo_path
    assert engine_path("./demo") == Path("demo")


@pytest.mark.parametrize("name", ["", ".hidden", "no\0name", "x" * 5000])
def test_names_that_no_engine_has(name):
    """The empty one would be the folder of all built-in engines, or the current one."""
    with pytest.raises(EngineError, match="does not exist"):
        engine_path(name)


@pytest.mark.parametrize("name", ["..", "."])
def test_dots_are_paths_and_not_built_in_names(name):
    assert engine_path(name) == Path(name)


@pytest.mark.parametrize("name", [None, 5, b"demo", ["demo"]])
def test_an_engine_that_is_no_name(name):
    with pytest.raises(TypeError, match=f"got {type(name).__name__}; write"):
        load_engine(name)


def test_a_huge_seal_is_not_read(engine):
    """A sparse file of 1 TiB: reading it would exhaust the memory."""
    with open(engine / SEAL, "ab") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(EngineError, match="altered"):
        load_engine(engine)


@pytest.mark.parametrize(
    "text", ['{"format": 1e999}', '{"a": 1, "a": 2}', "[" * 100_000, "[]", "\ufeff{}", ""]
)
def test_a_manifest_that_is_not_plain_json(engine, text):
    (engine / MANIFEST).write_bytes(text.encode())
    (engine / SEAL).write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(EngineError, match="not the manifest"):
        load_engine(engine)


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


TABLE_BYTES = 16 * noise_reach(0.25)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(TABLE_BYTES + 128),
        # A header that promises 8 EiB.
        npy_header("{'descr': '<u8', 'fortran_order': False, 'shape': (1152921504606846975,), }\n").ljust(
            TABLE_BYTES + 128
        ),
        npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n").ljust(TABLE_BYTES + 128),
        npy_header("((((").ljust(TABLE_BYTES + 128),
        b"PK\x03\x04".ljust(TABLE_BYTES + 128),
        bytes(1 << 20),
    ],
    ids=["empty", "zeros", "huge-shape", "pickle", "syntax", "zip", "long"],
)
def test_a_noise_table_that_is_none(engine, content):
    replace_file(engine, "noise.npy", content)
    with pytest.raises(EngineError, match=r"noise\.npy: ."):
        load_engine(engine)


def test_a_long_noise_table_is_not_parsed(engine, monkeypatch):
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **options: pytest.fail("was parsed"))
    replace_file(engine, "noise.npy", bytes(1 << 20))
    with pytest.raises(EngineError, match="wanted a header and"):
        load_engine(engine)


def test_long_names_are_cut_in_messages(engine):
    rewrite(engine, lambda record: record["stages"]["encoder"]["float32"].update(opset="x" * 5000))
    with pytest.raises(EngineError) as said:
        load_engine(engine)
    assert len(str(said.value)) < 600
