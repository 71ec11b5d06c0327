"""TensorRT: real plans are built where TensorRT-RTX is installed; a recording stand-in plays the rest.

Nothing here has run on a GPU but the one test that says so.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.numpy import load

import fsfast
from export.tensorrt import main
from fsfast.backends import tensorrt
from fsfast.backends.device.lane import Lane
from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.backends.tensorrt import apart, execution, library, plans
from fsfast.backends.tensorrt.bfloat16 import in_bfloat16, narrowed
from fsfast.backends.tensorrt.building import OPTIONS, Tensors, build_plan, options_of, stage_tensors
from fsfast.backends.tensorrt.library import Library, find_library, new_log
from fsfast.backends.tensorrt.plans import Plan, PlanKey, load_plan, plan_files, read_plan
from fsfast.engine.engine import load_engine
from fsfast.engine.onnx_bytes import external_tensors
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError
from tests.forging import replace_file

STAGES = ["purifier", "encoder", "mapper"]
MAPPER = Work("float32", ("mapper",), 4)
SHAPE = Tensors("tokens", "refined", (64, 128), (64, 128))


# The stand-in: TensorRT's API as far as it is used, recording calls, doubling its input.


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class FakeLogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity


class FakeParser:
    def __init__(self, trt, network):
        self.trt, self.network = trt, network
        self.num_errors = len(trt.errors)

    def load_model_proto(self, graph):
        self.graph = onnx.load_model_from_string(graph).graph
        return True

    def load_initializer(self, name, address, size):
        self.trt.initialisers[name] = ctypes.string_at(address, size)
        return name not in self.trt.refused

    def parse_model_proto(self):
        for side in ("input", "output"):
            tensors = [
                SimpleNamespace(
                    name=v.name, shape=[-1, *(d.dim_value for d in v.type.tensor_type.shape.dim[1:])]
                )
                for v in getattr(self.graph, side)
            ]
            setattr(self.network, f"num_{side}s", len(tensors))
            setattr(self.network, f"get_{side}", tensors.__getitem__)
        self.network.num_layers = len(self.graph.node)
        return not self.trt.errors

    def get_error(self, index):
        fields = self.trt.errors[index]
        return SimpleNamespace(**{name: lambda value=value: value for name, value in fields.items()})


class FakeEngine:
    """Has one input and one output of equal shape."""

    def __init__(self, trt, plan):
        self.trt, self.plan = trt, plan

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.trt.dtype)

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, config):
        self.trt.calls.append(("context", vars(config)))
        return FakeContext(self.trt)


class FakeContext:
    def __init__(self, trt):
        self.trt, self.addresses, self.shape = trt, {}, None

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return not self.trt.out_of_order

    def set_input_shape(self, name, shape):
        self.trt.calls.append(("shape", shape))
        self.shape = shape
        return True

    def execute_async_v3(self, stream):
        self.trt.calls.append(("execute", self.shape, stream))
        dtype = {"FLOAT": np.float32, "HALF": np.float16}[self.trt.dtype]
        size = int(np.prod(self.shape)) * np.dtype(dtype).itemsize
        x, y = (
            np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype)
            for name in ("tokens", "refined")
        )
        y[:] = 2 * x
        return True


class FakeConfig(SimpleNamespace):
    """Its timings grow by one with every build."""

    def create_timing_cache(self, known):
        return SimpleNamespace(serialize=lambda: known + b"|")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class FakeTrt(ModuleType):
    """The module; tests change its attributes."""

    ILogger = FakeLogger
    BuilderFlag = SimpleNamespace(TF32="TF32", DISTRIBUTIVE_INDEPENDENCE="DISTRIBUTIVE_INDEPENDENCE")

    def __init__(self):
        super().__init__("tensorrt")
        self.__version__ = "11.4.0"
        self.calls, self.initialisers, self.errors, self.refused = [], {}, [], ()
        self.plan, self.dtype, self.out_of_order = b"a plan", "FLOAT", False

    def Builder(self, log):
        def build(network, config):
            log.log(Severity.INFO, "Engine generation\n  completed")
            if self.plan is None:
                log.log(Severity.ERROR, "out of luck")
            return self.plan

        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(),
            create_builder_config=lambda: FakeConfig(
                trt=self,
                clear_flag=lambda flag: self.calls.append(("clear", flag)),
                set_flag=lambda flag: self.calls.append(("set", flag)),
                add_optimization_profile=lambda profile: 0,
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *shapes: self.calls.append(("profile", *shapes))
            ),
            build_serialized_network=build,
        )

    def OnnxParser(self, network, log):
        return FakeParser(self, network)

    def Runtime(self, log):
        def deserialise(content):
            log.log(Severity.ERROR, "wrong magic")
            return FakeEngine(self, content) if content == self.plan else None

        return SimpleNamespace(deserialize_cuda_engine=deserialise)


@pytest.fixture
def trt() -> FakeTrt:
    return FakeTrt()


@pytest.fixture
def fake(trt, monkeypatch) -> Library:
    """TensorRT 11 is installed, TensorRT-RTX is not."""
    modules = {"tensorrt": trt}

    def load_module(name):
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    monkeypatch.setattr(library, "import_module", load_module)
    return find_library("tensorrt")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU is there, whose memory is the host's, and plans are built in this process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake H200")
    monkeypatch.setattr(tensorrt, "build_apart", built_here)


def built_here(engine, key, found, time_limit):
    def build(path: Path):
        weights = engine.read(engine.manifest.weights[key.precision])
        graph = engine.graph(key.stage, key.precision)
        tensors = stage_tensors(engine.manifest, key.stage, key.precision)
        plan = build_plan(found, new_log(found), graph, weights, tensors, key.micro_batch)
        return write(path, plan.content)

    return build


def write(path: Path, content: bytes) -> dict:
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"sha256": digest, "bytes": len(content), "layers": 3, "seconds": 0.5, "peak_bytes": 7}


def null(log):
    """What the bindings make of a null pointer."""
    raise TypeError("factory function returned nullptr")


# Building.


def mapper_arguments(path: Path) -> dict:
    engine = load_engine(path)
    return {
        "graph": engine.graph("mapper", "float32"),
        "weights": engine.read("weights.float32.safetensors"),
        "tensors": SHAPE,
        "micro_batch": 8,
    }


def build_mapper(fake: Library, path: Path, **changes) -> bytes:
    return build_plan(fake, new_log(fake), **(mapper_arguments(path) | changes)).content


def test_float32_means_float32_and_rows_are_independent(fake, trt, demo_path):
    """Both libraries would use TF32 by themselves; kernels may differ along the batch unless told otherwise."""
    assert build_mapper(fake, demo_path) == b"a plan"
    assert trt.calls == [
        ("clear", "TF32"),
        ("set", "DISTRIBUTIVE_INDEPENDENCE"),
        ("profile", "tokens", (1, 64, 128), (8, 64, 128), (8, 64, 128)),
    ]


# bfloat16, which is made of a float32 graph.


def test_bfloat16_is_a_precision_of_every_engine_with_float32(demo_path):
    engine = load_engine(demo_path)
    manifest = engine.manifest
    backend = tensorrt.TensorRt("tensorrt")
    assert backend.precisions(manifest) == (*manifest.computed_in_float32, "bfloat16")
    assert backend.rows(manifest, "bfloat16") == manifest.rows("float32")
    assert stage_tensors(manifest, "mapper", "bfloat16") == stage_tensors(manifest, "mapper", "float32")
    tested = backend.tested(engine, "bfloat16").manifest.stages["mapper"]["bfloat16"]
    assert tested.tolerance > manifest.stages["mapper"]["float32"].tolerance
    assert backend.tested(engine, "float32") is engine
    assert set(options_of("bfloat16")) > set(OPTIONS) == set(options_of("float32"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_in_bfloat16_has_the_same_ends_and_no_wide_number_inside(stage, demo_path):
    graph = load_engine(demo_path).graph(stage, "float32")
    before, made = (onnx.load_model_from_string(each).graph for each in (graph, in_bfloat16(graph)))
    assert (made.input, made.output, made.initializer) == (before.input, before.output, before.initializer)
    wide = {item.name for item in made.initializer if item.data_type == onnx.TensorProto.FLOAT}
    wide |= {item.name for item in made.input}
    for node in made.node:
        # What Resize is told about sizes is no number that it computes with.
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        assert node.op_type == "Cast" or wide.isdisjoint(inputs), node.name
    kinds = [node.attribute[0].i for node in made.node if node.op_type == "Cast"]
    assert kinds == [onnx.TensorProto.BFLOAT16] * len(wide) + [onnx.TensorProto.FLOAT]


@pytest.mark.parametrize("stage", STAGES)
def test_a_narrowed_graph_computes_the_same_up_to_rounding(stage, demo_path):
    """In float16, which ONNX Runtime computes on a processor; only the type differs."""
    engine = load_engine(demo_path)
    weights = engine.read(engine.manifest.stages[stage]["float32"].weights)
    graph = engine.graph(stage, "float32")
    wide = load(engine.read(engine.manifest.golden))[f"{stage}.input"]
    model = narrowed(onnx.load_model_from_string(graph), onnx.TensorProto.FLOAT16)
    outputs = [
        open_session(content, weights).run(None, {engine.manifest.stages[stage]["float32"].input: wide})[0]
        for content in (graph, model.SerializeToString())
    ]
    assert not np.array_equal(*outputs)
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1.5e-2 * np.abs(outputs[0]).max())


def test_initialisers_are_the_verified_weights(fake, trt, demo_path):
    build_mapper(fake, demo_path)
    stored = load((demo_path / "weights.float32.safetensors").read_bytes())
    assert len(trt.initialisers) > 20
    for name, content in trt.initialisers.items():
        assert content == stored[f"mapper.{name}"].tobytes()


def test_no_address_outside_the_weights_is_read(fake, trt, demo_path):
    """The parser takes bare addresses: a graph that points beyond the file would read foreign memory."""
    weights = (demo_path / "weights.float32.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"ends at byte \d+, the weights file has"):
        build_mapper(fake, demo_path, weights=weights[:1000])
    assert not trt.initialisers


def test_an_unsupported_node_is_named_with_its_type(fake, trt, demo_path):
    node = {"desc": "false", "node": 3, "node_name": "node_Det_7", "node_operator": "Det"}
    nameless = {**node, "node_name": "", "desc": "no\nkernel"}
    trt.errors = [node, nameless, node, node, node]
    with pytest.raises(
        ValueError, match=r"node node_Det_7 of type Det; node number 3 .*\(no kernel\).*; 2 more"
    ):
        build_mapper(fake, demo_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plan": None}, "out of luck"),
        ({"refused": ("blocks.0.gain",)}, "no reason"),
        ({"errors": [{"desc": "no ONNX", "node_operator": ""}]}, "not supported: no ONNX$"),
    ],
    ids=["build", "initialiser", "model"],
)
def test_what_the_library_refuses(fake, trt, demo_path, change, says):
    for name, value in change.items():
        setattr(trt, name, value)
    with pytest.raises(ValueError, match=says):
        build_mapper(fake, demo_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": "other"}, r"wanted one input 'other' \[-1, 64, 128\], got 'tokens' \[-1, 64, 128\]"),
        ({"output_shape": (64, 127)}, r"wanted one output .*127\], got .*128\]"),
    ],
    ids=["name", "shape"],
)
def test_a_graph_that_is_not_the_manifests(fake, demo_path, change, says):
    with pytest.raises(ValueError, match=says):
        build_mapper(fake, demo_path, tensors=replace(SHAPE, **change))


def test_tensorrt_needs_a_gpu_to_build(fake, trt, demo_path):
    trt.Builder = null
    with pytest.raises(
        BackendUnavailable, match=r"^tensorrt 11\.4\.0 cannot start its Builder here: .*needs the GPU"
    ):
        build_mapper(fake, demo_path)


def test_the_log_is_written_as_it_comes(fake, tmp_path):
    with open(tmp_path / "log", "w") as file:
        log = new_log(fake, file)
        log.log(Severity.VERBOSE, "chatter")
        log.log(Severity.WARNING, "two\nlines")
        log.log(Severity.INTERNAL_ERROR, "bad")
        assert (tmp_path / "log").read_text() == "WARNING: two lines\nINTERNAL_ERROR: bad\n"
    assert log.errors == ["bad"]


# Which library.


def test_no_library(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(library, "import_module", missing)
    with pytest.raises(
        BackendUnavailable, match=r"tensorrt cannot .*tensorrt_rtx cannot .*pip install"
    ) as error:
        find_library()
    assert "\n" not in str(error.value)
    assert len(tensorrt.TensorRt().problems()) == 1


def test_the_first_library_that_is_installed(fake):
    assert str(find_library()) == "tensorrt 11.4.0"
    with pytest.raises(BackendUnavailable, match="tensorrt_rtx cannot be loaded"):
        find_library("tensorrt_rtx")
    with pytest.raises(ValueError, match="wanted a library of tensorrt, tensorrt_rtx, got 'openvino'"):
        find_library("openvino")


def test_an_old_library(fake, trt):
    """TensorRT 10 has weakly typed networks and other names."""
    trt.__version__ = "10.16.1"
    with pytest.raises(BackendUnavailable, match=r"wanted tensorrt 11 or later, got 10\.16\.1"):
        find_library("tensorrt")


# The folder of plans.

KEY = PlanKey("d" * 64, "mapper", "float32", 4, "tensorrt 11.4.0", "sm_90 H200", OPTIONS)


def stored(folder: Path, content: bytes = b"plan one") -> Plan:
    return load_plan(folder, KEY, lambda path: write(path, content))


def never(path):
    pytest.fail("was built again")


@pytest.mark.parametrize(
    "change",
    [
        {"engine_digest": "e" * 64},
        {"stage": "encoder"},
        {"precision": "float16"},
        {"micro_batch": 5},
        {"library": "tensorrt 11.4.1"},
        {"target": "ahead-of-time"},
        {"options": (*OPTIONS, "more=1")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_ingredient_changes_the_key(tmp_path, change):
    stored(tmp_path)
    other = replace(KEY, **change)
    assert other.name != KEY.name
    assert read_plan(tmp_path, other) is None


def test_a_good_plan_is_not_built_again(tmp_path):
    first = stored(tmp_path / "new" / "folder")
    again = load_plan(tmp_path / "new" / "folder", KEY, never)
    assert (first.content, first.layers, first.seconds, first.peak_bytes) == (b"plan one", 3, 0.5, 7)
    assert (first.built, again) == (True, replace(first, built=False))
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700


def test_a_plan_is_built_again_on_request(tmp_path):
    stored(tmp_path)
    assert load_plan(tmp_path, KEY, lambda path: write(path, b"two"), rebuild=True).content == b"two"
    assert read_plan(tmp_path, KEY).content == b"two"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda plan, record: flip(plan), "sha256 differs"),
        (lambda plan, record: plan.write_bytes(plan.read_bytes()[:-1]), "7 bytes, wanted 8"),
        (lambda plan, record: plan.unlink(), "No such file"),
        (lambda plan, record: record.write_text("{"), "Expecting"),
        (lambda plan, record: record.write_text("[]"), "indices"),
        (lambda plan, record: record.write_text("{}"), "format"),
        (lambda plan, record: record.write_text(record.read_text().replace("mapper", "encoder")), "another"),
        (
            lambda plan, record: record.write_text(record.read_text().replace('"schema": 1', '"schema": 2')),
            "another",
        ),
    ],
    ids=["flipped", "truncated", "missing", "syntax", "list", "empty", "other-key", "newer"],
)
def test_a_damaged_plan_is_built_again(tmp_path, caplog, damage, says):
    stored(tmp_path)
    damage(*plan_files(tmp_path, KEY))
    with caplog.at_level(logging.WARNING, "fsfast"):
        plan = stored(tmp_path, b"plan two")
    assert (plan.content, plan.built) == (b"plan two", True)
    assert says in caplog.text
    assert load_plan(tmp_path, KEY, never).content == b"plan two"


def test_a_record_outlives_no_plan(tmp_path):
    """A process that is killed between the new plan and its record leaves nothing that would be trusted."""
    stored(tmp_path)

    def killed(path):
        write(path, b"plan two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_plan(tmp_path, KEY, killed, rebuild=True)
    assert read_plan(tmp_path, KEY) is None


def test_a_failed_build_keeps_the_old_plan(tmp_path):
    stored(tmp_path)
    with pytest.raises(ZeroDivisionError):
        load_plan(tmp_path, KEY, lambda path: 1 // 0, rebuild=True)
    assert read_plan(tmp_path, KEY).content == b"plan one"


def test_a_disk_that_lies(tmp_path):
    def build(path):
        entry = write(path, b"plan one")
        flip(path)
        return entry

    with pytest.raises(EngineError, match="was written and reads differently"):
        load_plan(tmp_path, KEY, build)


def test_one_builds_and_the_others_wait(tmp_path):
    builds = []

    def build(path):
        time.sleep(0.05)
        builds.append(path)
        return write(path, b"plan one")

    threads = [threading.Thread(target=load_plan, args=(tmp_path, KEY, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720], ids=oct)
def test_a_folder_that_others_can_write_to(tmp_path, mode):
    """Plans hold machine code."""
    stored(tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(BackendUnavailable, match="chmod 700"):
        load_plan(tmp_path, KEY, never)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="cannot be used"):
        stored(tmp_path / "file")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """A good plan is served from it all the same."""
    stored(tmp_path)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(plans.os, "open", refuse)
    assert not load_plan(tmp_path, KEY, never).built
    with pytest.raises(BackendUnavailable, match=r"cannot be written \(Permission denied\)"):
        load_plan(tmp_path, KEY, never, rebuild=True)


# The process of its own.


def build_in(child: str, engine: Path, folder: Path, monkeypatch) -> Plan:
    """Run Python text in the place of the building process."""
    (folder / "impostor.py").write_text(f"import json, os, sys\nfolder = sys.argv[1]\n{child}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(apart, "_CHILD", "impostor")
    loaded = load_engine(engine)
    key = replace(KEY, engine_digest=loaded.digest)
    return load_plan(folder, key, apart.build_apart(loaded, key, Library("tensorrt", "11.4.0", None)))


@pytest.mark.parametrize(
    ("child", "error", "says"),
    [
        (
            "print('thinking', flush=True)\nos.kill(os.getpid(), 11)",
            EngineError,
            "SIGSEGV; it said last: thinking;",
        ),
        ("os.kill(os.getpid(), 9)", EngineError, r"SIGKILL \(out of memory\?\)"),
        ("raise OSError('disk full')", EngineError, "ended with code 1; it said last: OSError: disk full"),
        (
            "json.dump({'error': 'no kernel'}, open(folder + '/outcome.json', 'w'))",
            EngineError,
            "it: no kernel;",
        ),
        (
            "json.dump({'unavailable': 'no GPU'}, open(folder + '/outcome.json', 'w'))",
            BackendUnavailable,
            "^no GPU$",
        ),
    ],
    ids=["crash", "killed", "traceback", "refused", "unavailable"],
)
def test_a_build_that_goes_wrong(demo_path, tmp_path, monkeypatch, child, error, says):
    """A library that crashes takes this process not with it; nothing stays but the log."""
    log = "open(folder + '/build.log', 'w').write('INFO: begun')\n"
    with pytest.raises(error, match=says) as caught:
        build_in(log + child, demo_path, tmp_path, monkeypatch)
    (kept,) = tmp_path.glob("*.log")
    assert kept.read_text() == "INFO: begun"
    assert not [*tmp_path.glob("*.plan"), *tmp_path.glob(".build-*")]
    if error is EngineError:
        assert "mapper.float32.onnx: tensorrt 11.4.0 cannot build it: " in str(caught.value)
        assert str(kept) in str(caught.value)


def test_a_build_that_takes_too_long(demo_path, tmp_path):
    loaded = load_engine(demo_path)
    key = replace(KEY, engine_digest=loaded.digest)
    build = apart.build_apart(loaded, key, Library("tensorrt", "11.4.0", None), time_limit=0.01)
    with pytest.raises(EngineError, match=r"cannot build it within 0\.01 s.*--time-limit"):
        load_plan(tmp_path, key, build)
    assert not [*tmp_path.glob("*.plan"), *tmp_path.glob(".build-*")]
    with pytest.raises(ValueError, match="time limit above 0"):
        apart.build_apart(loaded, key, Library("tensorrt", "11.4.0", None), time_limit=0)


def test_what_was_measured_is_kept_for_the_next_build(fake, demo_path, tmp_path, monkeypatch):
    """Of one library on one kind of GPU, whatever the network."""
    build = build_plan(fake, new_log(fake), **mapper_arguments(demo_path), timings=b"known")
    assert build.timings == b"known|"
    child = (
        "import hashlib, pathlib\nt = pathlib.Path(folder, 'timings')\n"
        "t.write_bytes((t.read_bytes() if t.exists() else b'') + b'+')\n"
        "open(folder + '/plan', 'wb').write(b'x')\n"
        "json.dump({'sha256': hashlib.sha256(b'x').hexdigest(), 'bytes': 1, 'layers': 1, 'seconds': 1.0, "
        "'peak_bytes': 1}, open(folder + '/outcome.json', 'w'))"
    )
    for rebuilt in range(1, 3):
        for record in tmp_path.glob("*.json"):
            record.unlink()
        build_in(child, demo_path, tmp_path, monkeypatch)
        (timings,) = tmp_path.glob("timings-*")
        assert timings.read_bytes() == b"+" * rebuilt
    assert timings.name == apart.timings_name(replace(KEY, stage="encoder", micro_batch=1))
    assert timings.name != apart.timings_name(replace(KEY, target="sm_80 another GPU"))


# Running, on the stand-in.


LANE = Lane(torch.device("cpu"))


def open_mapper(path: Path, **options) -> execution.PlanStage:
    stages = tensorrt.TensorRt(**options).open(load_engine(path), MAPPER, LANE)
    return stages.run["mapper"]


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_rows_go_through_the_plan(fake, trt, gpu, demo_path, tmp_path, rows):
    """On the current stream, where the tensors lie."""
    stage = open_mapper(demo_path, folder=tmp_path)
    x = torch.randn((rows, 64, 128), generator=torch.Generator().manual_seed(0))
    out = stage(x)
    assert torch.equal(out, 2 * x)
    assert trt.calls[-1] == ("execute", (rows, 64, 128), LANE.handle)
    assert stage._context.addresses == {"tokens": x.data_ptr(), "refined": out.data_ptr()}


def test_a_shape_is_set_where_it_changes(fake, trt, gpu, demo_path, tmp_path):
    """A CUDA graph can hold the second run of a shape only."""
    stage = open_mapper(demo_path, folder=tmp_path)
    for rows in (4, 4, 2, 4):
        stage(torch.zeros((rows, 64, 128)))
    assert [call[1][0] for call in trt.calls if call[0] == "shape"] == [4, 2, 4]


def test_memory_order_and_types_are_those_of_the_plan(fake, trt, gpu, demo_path, tmp_path):
    trt.dtype = "HALF"
    stage = open_mapper(demo_path, folder=tmp_path)
    x = torch.full((2, 128, 64), 1 / 3).transpose(1, 2)
    assert torch.equal(stage(x), torch.full((2, 64, 128), 2 * float(np.float16(1 / 3))))


@pytest.mark.parametrize("shape", [(0, 64, 128), (5, 64, 128), (2, 64, 64)])
def test_a_wrong_shape(fake, gpu, demo_path, tmp_path, shape):
    stage = open_mapper(demo_path, folder=tmp_path)
    with pytest.raises(ValueError, match=r"wanted tokens \['1…4', 64, 128\], got"):
        stage(torch.zeros(shape))


def test_a_run_that_does_not_start(fake, trt, gpu, demo_path, tmp_path):
    stage = open_mapper(demo_path, folder=tmp_path)
    trt.out_of_order = True
    with pytest.raises(EngineError, match="cannot run 2 rows"):
        stage(torch.zeros((2, 64, 128)))
    trt.out_of_order = False
    assert stage(torch.ones((2, 64, 128))).eq(2).all()


def test_the_plans_name_the_function(fake, trt, gpu, demo_path, tmp_path):
    """Two builds of one graph may compute other bits; the library's version does not show it."""
    names = set()
    for trt.plan in (b"one", b"two"):
        folder = tmp_path / trt.plan.decode()
        opened = tensorrt.TensorRt(folder=folder).open(load_engine(demo_path), MAPPER, LANE)
        names.add(opened.version)
    assert len(names) == 2
    assert all(name.startswith("tensorrt 11.4.0, plans ") for name in names)


def test_a_plan_on_a_gpu_of_tensorrt_is_keyed_by_it(fake, trt, gpu, demo_path, tmp_path):
    open_mapper(demo_path, folder=tmp_path)
    (record,) = tmp_path.glob("*.json")
    assert json.loads(record.read_text())["key"]["target"] == "sm_90 Fake H200"


def test_tensorrt_rtx_settles_its_kernels_before_it_serves(fake, trt, gpu, demo_path, tmp_path):
    """Its default changes kernels while it serves: the same rows would give other bits later."""
    open_mapper(demo_path, folder=tmp_path)
    assert ("context", {}) in trt.calls
    trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    open_mapper(demo_path, folder=tmp_path)
    assert trt.calls[-1] == ("context", {"dynamic_shapes_kernel_specialization_strategy": "eager"})


def test_a_gpu_that_the_plan_does_not_run_on(fake, trt, gpu, demo_path, tmp_path):
    trt.EngineValidity = SimpleNamespace(INVALID="invalid")
    trt.EngineInvalidityDiagnostics = IntEnum("D", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})
    runtime = trt.Runtime

    def rtx(log):
        made = runtime(log)
        made.get_engine_validity = lambda content: ("invalid", 2)
        return made

    trt.Runtime = rtx
    with pytest.raises(BackendUnavailable, match=r"on this GPU \(UNSUPPORTED_CC\).*tensorrt>=11"):
        open_mapper(demo_path, folder=tmp_path)


def test_a_runtime_that_does_not_start(fake, trt, gpu, demo_path, tmp_path):
    trt.Runtime = null
    with pytest.raises(BackendUnavailable, match="cannot start its Runtime here"):
        open_mapper(demo_path, folder=tmp_path)


def test_a_plan_that_the_library_refuses(fake, trt, gpu, demo_path, tmp_path):
    open_mapper(demo_path, folder=tmp_path)
    trt.plan = b"other"
    with pytest.raises(BackendUnavailable, match="cannot load the plan on this GPU: wrong magic"):
        open_mapper(demo_path, folder=tmp_path)


def test_no_gpu_is_said_before_anything_is_built(fake, trt, demo_path, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        BackendUnavailable, match=r"on the GPU that is to run them, and torch .* finds none"
    ) as error:
        open_mapper(demo_path, folder=tmp_path)
    assert "\n" not in str(error.value)
    assert not trt.calls


def test_plans_are_built_on_the_first_gpu(fake, trt, gpu):
    """The building process would take another one than the second."""
    with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES=1"):
        execution.build_target(fake, torch.device("cuda", 1))


def test_a_plan_that_needs_too_much_memory(fake, trt, gpu, demo_path, tmp_path, monkeypatch):
    """Its context takes the memory of M rows at once; the answer is the M that would fit."""
    monkeypatch.setattr(FakeEngine, "device_memory_size_v2", 8 * 10**9, raising=False)
    monkeypatch.setattr(execution, "available_bytes", lambda device: 5 * 10**9)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(LANE, "stream", SimpleNamespace(cuda_stream=7))
    with pytest.raises(BackendUnavailable, match=r"micro_batch=2 would fit"):
        open_mapper(demo_path, folder=tmp_path)


# Real plans. TensorRT-RTX builds without a GPU.


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: the extra [tensorrt]")
    return find_library("tensorrt_rtx")


def export_plans(capsys, *arguments: object) -> list[dict]:
    assert main([*map(str, arguments), "--library", "tensorrt_rtx", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["stages"]


def test_plans_of_the_built_in_engine(rtx, demo_path, tmp_path, capsys):
    rows = export_plans(capsys, "demo", "--out", tmp_path / "plans", "--micro-batch", 4)
    weights = (demo_path / "weights.float32.safetensors").stat().st_size
    assert [row["stage"] for row in rows] == STAGES
    for row in rows:
        assert row["built"]
        assert row["layers"] > row["nodes"] > 50
        # Weights and kernels, and no more than a few copies of them.
        assert 1 < row["plan_mb"] < 20 * weights / 1e6
        assert row["peak_mb"] > row["plan_mb"]
    logs = [path.read_text() for path in (tmp_path / "plans").glob("*.log")]
    assert len(logs) == 3
    assert all("Engine generation completed" in log for log in logs)
    # The second time all is there; a damaged plan alone is built again.
    engine = load_engine("demo")
    key = PlanKey(engine.digest, "mapper", "float32", 4, str(rtx), "ahead-of-time", OPTIONS)
    flip(plan_files(tmp_path / "plans", key)[0])
    again = export_plans(capsys, "demo", "--out", tmp_path / "plans", "--micro-batch", 4)
    assert [row["built"] for row in again] == [False, False, True]
    assert [row["sha256"] for row in again[:2]] == [row["sha256"] for row in rows[:2]]
    plan = read_plan(tmp_path / "plans", key)
    assert plan.sha256 == again[2]["sha256"]
    validity, _ = rtx.module.Runtime(new_log(rtx)).get_engine_validity(plan.content)
    assert validity in rtx.module.EngineValidity.__members__.values()


def test_plans_in_bfloat16_are_made_of_the_float32_graph(rtx, demo_path, tmp_path, capsys):
    options = ("--stages", "mapper", "--micro-batch", 4, "--out", tmp_path)
    (wide,) = export_plans(capsys, "demo", *options)
    (narrow,) = export_plans(capsys, "demo", *options, "--precision", "bfloat16")
    assert narrow["built"]
    assert narrow["layers"] > wide["layers"]
    # Folded weights take half the bytes, whatever kernels stand beside them.
    assert narrow["plan_mb"] < wide["plan_mb"]


def test_the_network_is_strongly_typed(rtx):
    """Both libraries know nothing else; if that changes, the flag must be passed."""
    trt = rtx.module
    network = trt.Builder(new_log(rtx)).create_network(0)
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_a_real_unsupported_node(rtx):
    """Our own list of operators would refuse it before."""
    nodes = [
        helper.make_node("Relu", ["tokens"], ["h"]),
        helper.make_node("Det", ["h"], ["refined"], name="seventh"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["M", 64, 64]) for name in ("tokens", "refined")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    square = Tensors("tokens", "refined", (64, 64), (64, 64))
    with pytest.raises(ValueError, match="not supported: node seventh of type Det"):
        build_plan(rtx, new_log(rtx), model.SerializeToString(), b"", square, 1)


def test_an_engine_that_changes_before_it_is_built(rtx, engine, tmp_path):
    loaded = load_engine(engine)
    replace_file(engine, "model-card.md", b"another engine")
    with pytest.raises(EngineError, match="another engine stands there"):
        tensorrt.prepare_plan(loaded, "mapper", "float32", 1, rtx, folder=tmp_path / "plans")


RECIPE = """
name = "{name}"
sigma = 0.25
n0 = 4
[grid]
height = {grid}
width = {grid}
fit = "crop"
filter = "bicubic"
[normalise]
mean = [0.48145466, 0.4578275, 0.40821073]
std = [0.26862954, 0.26130258, 0.27577711]
{purifier}
[encoder]
preset = "{encoder}"
output = "tokens"
ln_post = true
[mapper]
blocks = 3
[weights]
random_seed = 0
licence = "Apache-2.0"
"""


def exported(tmp_path: Path, encoder: str, grid: int, purifier: str = "") -> Path:
    from export.build import build_engine
    from export.recipe import load_recipe

    (tmp_path / "recipe.toml").write_text(
        RECIPE.format(name=encoder, grid=grid, encoder=encoder, purifier=purifier)
    )
    recipe = load_recipe(str(tmp_path / "recipe.toml"))
    build_engine(recipe, tmp_path / "engine", micro_batch=1, report=lambda line: None)
    return tmp_path / "engine"


def check_large_plans(path: Path, rows: list[dict], stages: list[str]) -> None:
    """A plan holds the stage's weights once, and little beside them."""
    engine = load_engine(path)
    assert [row["stage"] for row in rows] == stages
    for row in rows:
        print(engine.manifest.name, {name: value for name, value in row.items() if name != "sha256"})
        graph = engine.graph(row["stage"], "float32")
        weights_mb = sum(tensor.length for tensor in external_tensors(graph)) / 1e6
        assert 0.99 * weights_mb < row["plan_mb"] < 1.1 * weights_mb + 20


@pytest.mark.slow
def test_plans_of_a_vit_b_16(rtx, tmp_path, capsys):
    """The recipe vit-b16-random with a mapper: 12 blocks, D = 768."""
    path = exported(tmp_path, "vit-b16", 224)
    check_large_plans(path, export_plans(capsys, path, "--out", tmp_path / "plans"), ["encoder", "mapper"])


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("FSFAST_LARGE_TESTS") != "1",
    reason="needs 24 GB of memory and several minutes: FSFAST_LARGE_TESTS=1",
)
def test_plans_of_the_largest_networks(rtx, tmp_path, capsys):
    """adm256 (552 M parameters), ViT-L/14 at 336 pixels, a mapper at D = 1024."""
    path = exported(tmp_path, "vit-l14-336", 256, '[purifier]\npreset = "adm256"')
    check_large_plans(path, export_plans(capsys, path, "--out", tmp_path / "plans"), STAGES)
    # Gigabytes that nobody looks at again.
    shutil.rmtree(tmp_path, ignore_errors=True)


# The command.


def test_an_unknown_stage_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--stages", "mapper", "--stages", "decoder"])
    assert stopped.value.code == 2
    assert "wanted one of purifier, encoder, mapper, got 'decoder'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere"),
        (["demo", "--micro-batch", "0"], "micro_batch"),
        (["demo", "--micro-batch", "5000"], "1…1024"),
        (["demo", "--precision", "int4"], "int4"),
    ],
    ids=["engine", "none", "many", "precision"],
)
def test_wrong_arguments_are_one_line(fake, capsys, arguments, says):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fsfast export tensorrt: ")
    assert error.count("\n") == 1
    assert re.search(says, error)


def test_the_table(fake, gpu, trt, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path))
    for remark in ("", "(was there)"):
        assert main(["demo", "--stages", "mapper", "--micro-batch", "8"]) == 0
        heading, _, row, summary = capsys.readouterr().out.splitlines()
        assert heading.split() == ["stage", "nodes", "layers", "build", "s", "plan", "MB", "peak", "MB"]
        assert row.split() == ["mapper", "61", "3", "0.5", "0.0", "0", *remark.split()]
        assert summary == f"demo, float32, M = 8, tensorrt 11.4.0: plans in {tmp_path / 'plans'}"
    assert main(["demo", "--stages", "mapper", "--micro-batch", "8", "--force"]) == 0
    assert "was there" not in capsys.readouterr().out


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("name", library.LIBRARIES)
def test_the_whole_function_on_a_gpu(name):
    """Right values, the same bits twice, rows that ignore their neighbours, and the same captured: all at opening."""
    try:
        encoder = fsfast.SmoothedEncoder("demo", device="cuda", backend=name)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with encoder, fsfast.SmoothedEncoder("demo", threads=1) as on_cpu:
        image = np.full((64, 64, 3), 99, np.uint8)
        got, wanted = (e.encode(image, 5, seeds=[1]).features for e in (encoder, on_cpu))
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
