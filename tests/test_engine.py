"""The engine on disk: every damage is found before a runtime sees a byte; writing is all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save

import fsfast.engine
from fsfast.backends import Profile
from fsfast.backends.onnxruntime import open_graphs
from fsfast.engine import MANIFEST, SEAL, check_target, engine_path, load_engine, save_engine
from fsfast.errors import EngineError
from fsfast.images import FILTERS
from fsfast.kernels.tables import noise_reach
from fsfast.manifest import parse_manifest
from fsfast.schedule import Denoise
from fsfast.selftest import VERSION, check_golden, check_golden_once


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


def replace_file(path: Path, name: str, content: bytes) -> None:
    """Put other content into an engine, with a hash and a seal that agree."""
    (path / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(path, lambda record: record["files"].update({name: entry}))


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


def test_every_filter_of_images_is_allowed(demo_path):
    record = json.loads((demo_path / MANIFEST).read_text())
    for name in FILTERS:
        record["grid"]["filter"] = name
        assert parse_manifest(record).grid.filter == name


def test_a_target_is_checked_before_the_work(engine, tmp_path):
    check_target(tmp_path / "new", force=False)
    check_target(engine, force=True)
    with pytest.raises(EngineError, match="--force"):
        check_target(engine, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_never_replaced(engine, tmp_path, force):
    (tmp_path / "link").symlink_to(engine)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(EngineError, match="is a link"):
            saved_as(engine, tmp_path / name, force=force)


def test_the_folder_is_synced_after_the_rename(engine, tmp_path, monkeypatch):
    """A power cut after save_engine returned must not take the engine's name away."""
    synced = []
    monkeypatch.setattr(
        fsfast.engine, "_sync_folder", lambda folder: synced.append((folder, (tmp_path / "new").exists()))
    )
    saved_as(engine, tmp_path / "new")
    assert synced[-1] == (tmp_path, True)


def self_test(path: Path, micro_batch: int, stages=("mapper",)) -> dict[str, float]:
    engine = load_engine(path)
    profile = Profile("onnxruntime", "1", "float32", micro_batch, "cpu", stages)
    return check_golden(engine, open_graphs(engine, "float32", stages), profile)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7])
def test_the_built_in_engine_passes_its_self_test(demo_path, micro_batch):
    assert max(self_test(demo_path, micro_batch, ("purifier", "encoder", "mapper")).values()) < 1e-5


def replace_mapper(path: Path, nodes: list[onnx.NodeProto]) -> None:
    """Forge a mapper of `nodes` ("tokens" → "mapped") whose stored output is its stored input."""
    golden = load_file(path / "golden.safetensors")
    graph = helper.make_graph(
        nodes,
        "mapper",
        [
            helper.make_tensor_value_info(
                "tokens", TensorProto.FLOAT, ["M", *golden["mapper.input"].shape[1:]]
            )
        ],
        [helper.make_tensor_value_info("mapped", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    golden["mapper.output"] = golden["mapper.input"]
    replace_file(path, "golden.safetensors", save(golden))
    replace_file(path, "mapper.float32.onnx", model.SerializeToString())

    def change(record):
        variant = record["stages"]["mapper"]["float32"]
        variant["input"]["name"], variant["output"]["name"] = "tokens", "mapped"
        variant["output"]["shape"] = variant["input"]["shape"]

    rewrite(path, change)


def test_rows_that_depend_on_their_neighbours(engine):
    """The mean over the batch of equal rows is right; beside other rows it is not."""
    nodes = [
        helper.make_node("ReduceMean", ["tokens", "axes"], ["mean"], keepdims=1),
        helper.make_node("Shape", ["tokens"], ["shape"]),
        helper.make_node("Expand", ["mean", "shape"], ["mapped"]),
    ]
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[0])
    replace_mapper(engine, [axes, *nodes])
    assert self_test(engine, 1) == {"mapper": 0.0}
    with pytest.raises(EngineError, match="row 0 of 4 changes with its neighbours"):
        self_test(engine, 4)


def test_a_random_op_is_refused(engine):
    noise = helper.make_node("RandomNormalLike", ["tokens"], ["noise"], scale=1e-9)
    replace_mapper(engine, [noise, helper.make_node("Add", ["tokens", "noise"], ["mapped"])])
    with pytest.raises(EngineError, match=r"RandomNormalLike is random.*do not use"):
        self_test(engine, 1)


class Scripted:
    """A back end's graph that copies its input through a function of (rows, number of the call)."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def run(self, x, out):
        self.calls += 1
        out[:] = self.function(x, self.calls)


def scripted_test(path: Path, function, micro_batch: int = 3) -> dict[str, float]:
    replace_mapper(path, [helper.make_node("Identity", ["tokens"], ["mapped"])])
    profile = Profile("onnxruntime", "1", "float32", micro_batch, "cpu", ("mapper",))
    return check_golden(load_engine(path), {"mapper": Scripted(function)}, profile)


def test_the_last_row_is_looked_at_too(engine):
    """A back end whose last row takes a bit from the first."""

    def leak(x, call):
        y = x.copy()
        y[-1, 0, 0] += 1e-6 * (x[0, 0, 0] - x[-1, 0, 0] != 0)
        return y

    with pytest.raises(EngineError, match="row 2 of 3 changes"):
        scripted_test(engine, leak)


def test_other_bits_the_second_time(engine):
    with pytest.raises(EngineError, match="other bits the second time"):
        scripted_test(engine, lambda x, call: x * np.float32(1 + 1e-6 * call), micro_batch=1)


def test_a_graph_that_writes_nothing_or_fails(engine):
    with pytest.raises(EngineError, match="deviates"):
        scripted_test(engine, lambda x, call: np.full_like(x, np.nan))
    with pytest.raises(EngineError, match=r"mapper \(float32\) cannot run: .*division"):
        scripted_test(engine, lambda x, call: 1 // 0)


def golden_with(**changes):
    def content(path):
        golden = load_file(path / "golden.safetensors")
        for name, value in changes.items():
            name = name.replace("_", ".")
            golden[name] = value(golden[name])
            if golden[name] is None:
                del golden[name]
        return save(golden)

    return content


@pytest.mark.parametrize(
    "content",
    [
        lambda path: b"junk",
        lambda path: b"",
        lambda path: (1 << 62).to_bytes(8, "little") + b"{}",
        lambda path: golden_with()(path)[:-4],
        golden_with(mapper_input=lambda x: None),
        golden_with(mapper_output=lambda x: x.astype(np.float64)),
        golden_with(mapper_output=lambda x: np.ascontiguousarray(x[:, :1])),
        golden_with(mapper_input=lambda x: np.concatenate([x, x])),
        golden_with(mapper_output=lambda x: x * np.float32("nan")),
        lambda path: unknown_dtype(),
    ],
    ids=["junk", "empty", "header", "short", "missing", "dtype", "shape", "rows", "nan", "bfloat16"],
)
def test_a_malformed_golden_file(engine, content):
    replace_file(engine, "golden.safetensors", content(engine))
    with pytest.raises(EngineError, match=r"golden\.safetensors.*export the engine again"):
        self_test(engine, 1)


def unknown_dtype() -> bytes:
    """A good safetensors file in a type that NumPy does not have."""
    header = json.dumps({"mapper.input": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0\0"


def test_marks_of_older_self_tests_do_not_count(demo_path, tmp_path, monkeypatch):
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path))
    engine = load_engine(demo_path)
    profile = Profile("onnxruntime", "1", "float32", 1, "cpu", ("mapper",))
    (tmp_path / "self-tests").mkdir()
    (tmp_path / "self-tests" / "id").write_text("passed long ago")

    class Broken:
        def run(self, x, out):
            out[:] = 0

    with pytest.raises(EngineError, match="deviates"):
        check_golden_once(engine, {"mapper": Broken()}, profile, "id")
    check_golden_once(engine, open_graphs(engine, "float32", ("mapper",)), profile, "id")
    assert (tmp_path / "self-tests" / f"id.{VERSION}").is_file()
    # Passed: not run again.
    check_golden_once(engine, {"mapper": Broken()}, profile, "id")
