"""The engine on disk: every damage is found before a runtime sees a byte; writing is all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fsfast.engine import MANIFEST, SEAL, engine_path, load_engine, save_engine
from fsfast.errors import EngineError


@pytest.fixture
def engine(demo_path: Path, tmp_path: Path) -> Path:
    """A copy of the built-in engine to damage."""
    return Path(shutil.copytree(demo_path, tmp_path / "engine"))


def rewrite(path: Path, change) -> None:
    """Change the manifest and seal it again, as somebody would who forges an engine."""
    record = json.loads((path / MANIFEST).read_text())
    change(record)
    text = json.dumps(record).encode()
    (path / MANIFEST).write_bytes(text)
    (path / SEAL).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")


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
    with pytest.raises(EngineError, match=r"built-in one \(demo\)"):
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
    (engine / "encoder.float32.onnx").write_bytes(forged)
    entry = {"sha256": hashlib.sha256(forged).hexdigest(), "bytes": len(forged)}
    rewrite(engine, lambda record: record["files"].update({"encoder.float32.onnx": entry}))
    loaded = load_engine(engine)
    with pytest.raises(EngineError, match="points to weights outside"):
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
        (lambda r: r.update(sigma=0.3), "noise.npy"),
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


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in os.listdir(path)}


def saved_as(engine: Path, target: Path, **options) -> str:
    record = json.loads((engine / MANIFEST).read_text())
    files = {name: (engine / name).read_bytes() for name in record.pop("files")}
    return save_engine(target, record, files, **options)


def test_saving_gives_the_same_engine(engine, tmp_path):
    assert saved_as(engine, tmp_path / "new") == load_engine(engine).digest
    assert contents(tmp_path / "new") == contents(engine)


def test_an_engine_is_replaced_only_with_force(engine, tmp_path):
    before = contents(engine)
    with pytest.raises(EngineError, match="--force"):
        saved_as(engine, engine)
    assert contents(engine) == before
    saved_as(engine, engine, force=True)
    assert contents(engine) == before
    assert os.listdir(tmp_path) == ["engine"]


def test_force_never_replaces_something_else(engine, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(EngineError, match="not an engine"):
        saved_as(engine, tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_broken_engine_is_not_written(engine, tmp_path):
    record = json.loads((engine / MANIFEST).read_text())
    files = {name: (engine / name).read_bytes() for name in record.pop("files")}
    record["sigma"] = 0.5
    with pytest.raises(EngineError):
        save_engine(tmp_path / "new", record, files)
    assert os.listdir(tmp_path) == ["engine"]


def test_a_built_in_name_is_not_shadowed_by_a_folder(demo_path, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert engine_path("demo") == demo_path
    assert engine_path("./demo") == Path("demo")
