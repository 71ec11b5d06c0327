"""ONNX files of other people's: read with what lies beside them, or refused in one line."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.onnx_file import read_onnx
from tests.export.onnx_files import convolutions, model, node, saved, weights

BESIDE = {"save_as_external_data": True, "location": "x.data", "size_threshold": 0}


def test_weights_beside_the_graph(tmp_path):
    content = convolutions()
    inside = {t.name: numpy_helper.to_array(t) for t in content.graph.initializer}
    path = saved(content, tmp_path / "x.onnx", **BESIDE)
    file = read_onnx(path)
    assert file.values.keys() == inside.keys()
    for name, value in inside.items():
        np.testing.assert_array_equal(file.values[name], value)
    assert file.hashes == tuple(
        (name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()) for name in ("x.onnx", "x.data")
    )
    assert [(t.name, t.dtype, t.shape) for t in file.inputs] == [("x", "float32", (None, 3, 8, 8))]


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 22])
def test_other_operator_sets(opset, tmp_path):
    """Nodes come at the engines' operator set, and large weights do not go through the converter."""
    content = convolutions(opset=opset)
    values = {t.name: numpy_helper.to_array(t) for t in content.graph.initializer}
    large = numpy_helper.from_array(np.ones((40, 40), np.float32), "large")
    content.graph.initializer.append(large)
    file = read_onnx(saved(content, tmp_path / "x.onnx"))
    assert [n.op_type for n in file.nodes] == ["Conv", "Relu", "Conv"]
    assert [n.name for n in file.nodes] == ["/a", "/r", "/y"]
    for name, value in values.items():
        np.testing.assert_array_equal(file.values[name], value)


def test_what_older_operator_sets_wrote_otherwise(tmp_path):
    """Axes were attributes once."""
    content = model([node("ReduceSum", "x", "y", axes=[2, 3])], {}, opset=11)
    file = read_onnx(saved(content, tmp_path / "x.onnx"))
    axes = [value for name, value in file.values.items() if name in file.nodes[-1].input]
    made = [helper.get_attribute_value(n.attribute[0]) for n in file.nodes if n.op_type == "Constant"]
    assert [list(a) for a in (*axes, *map(numpy_helper.to_array, made))] == [[2, 3]]


def outside(tmp_path, location):
    """A file that says that its weights lie somewhere."""
    path = saved(convolutions(), tmp_path / "x.onnx", **BESIDE)
    content = onnx.load(path, load_external_data=False)
    content.graph.initializer[0].external_data[0].value = location
    return saved(content, path)


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../x.data", "a/../../x.data", "", "absent", "link", "folder"]
)
def test_weights_elsewhere(location, tmp_path):
    (tmp_path / "in" / "folder").mkdir(parents=True)
    (tmp_path / "x.data").write_bytes(bytes(4096))
    os.symlink(tmp_path / "x.data", tmp_path / "in" / "link")
    path = outside(tmp_path / "in", location)
    with pytest.raises(
        ValueError, match=r"initialiser 'w0': wanted a plain file in the graph's folder or below it"
    ):
        read_onnx(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offset": "100000"}, "wanted 648 bytes for float32 .*, got 648 at byte 100000 of the"),
        ({"offset": "-8"}, "wanted 648 bytes .* at byte -8 of the"),
        ({"length": "12"}, "wanted 648 bytes for float32 .*, got 12 at byte"),
        ({"length": "many"}, "wanted whole numbers as offset and length"),
    ],
)
def test_weights_that_do_not_fill_a_tensor(change, says, tmp_path):
    path = saved(convolutions(), tmp_path / "x.onnx", **BESIDE)
    content = onnx.load(path, load_external_data=False)
    for entry in content.graph.initializer[0].external_data:
        entry.value = change.get(entry.key, entry.value)
    with pytest.raises(ValueError, match=f"'w0': {says}"):
        read_onnx(saved(content, path))


def test_a_small_file_orders_no_large_memory(tmp_path):
    path = saved(convolutions(), tmp_path / "x.onnx", **BESIDE)
    content = onnx.load(path, load_external_data=False)
    for i in range(9):
        content.graph.initializer.append(content.graph.initializer[0])
        content.graph.initializer[-1].name = f"again{i}"
    with pytest.raises(ValueError, match=r"initialisers take \d+ bytes from x.data, which has \d+"):
        read_onnx(saved(content, path))


def half(dtype):
    content = convolutions()
    content.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(6, 3, 3, 3).astype(dtype), "w0"))
    return content


def of_bfloat16():
    content = convolutions()
    content.graph.initializer[0].CopyFrom(
        TensorProto(name="w0", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"ab")
    )
    return content


def with_function():
    content = convolutions()
    content.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [])
    )
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (half(np.float16), r"initialiser 'w0' is float16; wanted a float32 network: .*module.float\(\)"),
        (of_bfloat16(), "initialiser 'w0' is bfloat16"),
        (half(np.int8), "initialiser 'w0' is int8; .*fsfast export quantise"),
        (with_function(), r"it holds functions \('Twice'\)"),
        (
            convolutions(opset=3),
            "wanted operator set 21 or one that can be brought to it, got 3; export with",
        ),
        (onnx.ModelProto(), "which holds no graph"),
    ],
)
def test_what_is_no_float32_network(content, says, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        read_onnx(saved(content, tmp_path / "x.onnx"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x.onnx") in str(caught.value)


def test_what_is_no_onnx(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"wanted an ONNX file, got .*x.onnx, which is none"):
        read_onnx(path)
