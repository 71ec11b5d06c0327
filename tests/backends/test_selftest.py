"""The self-test: rows that depend on each other, randomness and wrong outputs are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from safetensors.numpy import load_file, save

from fsfast.backends.cpu import open_graphs
from fsfast.backends.selftest import VERSION, check_golden, check_golden_once
from fsfast.engine.engine import load_engine
from fsfast.engine.profile import Profile, Work
from fsfast.errors import EngineError
from tests.backends.mappers import replace_mapper
from tests.forging import replace_file


def self_test(path: Path, micro_batch: int, stages=("mapper",)) -> dict[str, float]:
    engine = load_engine(path)
    profile = Profile("onnxruntime", "1", "float32", micro_batch, "cpu", stages)
    graphs = open_graphs(engine, "onnxruntime", Work("float32", stages), threads=1)
    return dict(check_golden(engine, graphs, profile).deviations)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7])
def test_the_built_in_engine_passes_its_self_test(demo_path, micro_batch):
    assert max(self_test(demo_path, micro_batch, ("purifier", "encoder", "mapper")).values()) < 1e-5


def test_rows_that_depend_on_their_neighbours(engine):
    """The mean over the batch of equal rows is right; beside other rows it is not. No run is needed to see that."""
    nodes = [
        helper.make_node("ReduceMean", ["tokens", "axes"], ["mean"], keepdims=1),
        helper.make_node("Shape", ["tokens"], ["shape"]),
        helper.make_node("Expand", ["mean", "shape"], ["mapped"]),
    ]
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[0])
    replace_mapper(engine, [axes, *nodes])
    for rows in (1, 4):
        with pytest.raises(
            EngineError, match="ReduceMean along axis 0 would bring rows of the micro-batch together"
        ):
            self_test(engine, rows)


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
    return dict(check_golden(load_engine(path), {"mapper": Scripted(function)}, profile).deviations)


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


@pytest.fixture
def mapper(demo_path, tmp_path, monkeypatch):
    """An engine, its mapper as ONNX Runtime opened it, and its profile; an empty cache."""
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path))
    engine, stages = load_engine(demo_path), ("mapper",)
    graphs = open_graphs(engine, "onnxruntime", Work("float32", stages), threads=1)
    return engine, graphs["mapper"], Profile("onnxruntime", "1", "float32", 2, "cpu", stages)


class Changed:
    """A graph whose output goes through a function of the number of the call."""

    def __init__(self, graph, function):
        self.graph, self.function, self.calls = graph, function, 0

    def run(self, x, out):
        self.graph.run(x, out)
        self.calls += 1
        out[:] = self.function(out, self.calls)


def test_marks_of_older_self_tests_do_not_count(mapper, tmp_path):
    engine, graph, profile = mapper
    (tmp_path / "self-tests").mkdir()
    (tmp_path / "self-tests" / "id").write_text("passed long ago")
    with pytest.raises(EngineError, match="deviates"):
        check_golden_once(engine, {"mapper": Changed(graph, lambda y, call: 0 * y)}, profile, "id")
    check_golden_once(engine, {"mapper": graph}, profile, "id")
    (mark,) = (tmp_path / "self-tests").glob(f"id.{VERSION}.*")
    # Passed: each stage runs once from now on.
    counted = Changed(graph, lambda y, call: y)
    check_golden_once(engine, {"mapper": counted}, profile, "id")
    assert counted.calls == 1
    # A mark that says nothing is no mark.
    mark.write_text("{}")
    check_golden_once(engine, {"mapper": counted}, profile, "id")
    assert counted.calls > 2
    assert json.loads(mark.read_text())["outputs"].keys() == {"mapper"}


@pytest.mark.parametrize("last_bit_of", ["every row", "the last row"])
def test_other_bits_in_a_later_process_are_refused(mapper, last_bit_of):
    """A library that chooses its algorithm anew in every process is within the tolerance, and another function."""
    engine, graph, profile = mapper
    check_golden_once(engine, {"mapper": graph}, profile, "id")

    def other(y, call):
        rows = slice(None) if last_bit_of == "every row" else slice(-1, None)
        y[rows, 0, 0] = np.nextafter(y[rows, 0, 0], np.float32(np.inf))
        return y

    with pytest.raises(EngineError, match=r"other bits than in its self-test.*remove .*self-tests.id"):
        check_golden_once(engine, {"mapper": Changed(graph, other)}, profile, "id")


def test_a_row_in_the_middle_that_differs(engine):
    """A library may split rows among threads, so that one row is computed in two parts: first and last are right."""
    profile = Profile("onnxruntime", "1", "float32", 5, "cpu", ("mapper",))
    loaded = load_engine(engine)
    graph = open_graphs(loaded, "onnxruntime", Work("float32", ("mapper",)), threads=1)["mapper"]

    class Split:
        def run(self, x, out):
            graph.run(x, out)
            out[2] *= 1 + 1e-6

    with pytest.raises(EngineError, match="row 2 of 5 equal ones has other bits"):
        check_golden(loaded, {"mapper": Split()}, profile)
