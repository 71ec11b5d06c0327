"""What an engine's graph may compute, and how much it may order: known before any library sees it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fsfast.engine.graph_check import check_graph
from fsfast.engine.onnx_graph import parse_graph
from fsfast.engine.operators import OPERATORS, demand_of
from tests.engine.onnx_graphs import WEIGHTS, external


def constant(name: str, values, dtype=np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def zeros(name: str, *shape: int) -> TensorProto:
    return constant(name, np.zeros(shape), np.float32)


def graph_of(nodes, initialisers=(), *, out=(3,), dtype=TensorProto.FLOAT, **options) -> bytes:
    """A graph from x [M, 3] to y, as the export writes it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", 3])
    y = helper.make_tensor_value_info("y", dtype, ["M", *out])
    graph = helper.make_graph(list(nodes), "g", [x], [y], list(initialisers))
    fixed = {"producer_name": "fsfast", "ir_version": 10, "opset_imports": [helper.make_opsetid("", 21)]}
    return helper.make_model(graph, **{**fixed, **options}).SerializeToString()


def node(op: str, inputs, outputs="y", **attributes):
    # Two spaces stand around an input that is left out.
    return helper.make_node(op, inputs.split(" "), outputs.split(), **attributes)


IDENTITY = node("Identity", "x")
C = numpy_helper.from_array(np.zeros((1, 3), np.float32), "c")


def refused(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_graph(content, WEIGHTS)


def test_a_plain_graph():
    check_graph(graph_of([IDENTITY]), WEIGHTS)


@pytest.mark.parametrize("stage", ["purifier", "encoder", "mapper"])
def test_the_built_in_engine_is_measured_as_onnx_sees_it(demo_path, stage):
    """The shapes of all nodes, and so the memory, are those that onnx infers for one row."""
    content = (demo_path / f"{stage}.float32.onnx").read_bytes()
    graph = parse_graph(content)
    one = demand_of(graph, 1)
    assert one.peak_bytes > 4 * np.prod(graph.input[2])
    assert demand_of(graph, 3).peak_bytes == pytest.approx(3 * one.peak_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("STFT", {}),
        ("Mod", {}),
        ("RandomNormalLike", {}),
        ("ConstantOfShape", {}),
        ("Range", {}),
        ("Loop", {}),
        ("OneHot", {}),
        ("StringConcat", {}),
        ("NonZero", {}),
        ("BitShift", {"direction": "LEFT"}),
    ],
)
def test_operators_that_no_network_of_ours_needs(op, attributes):
    assert op not in OPERATORS
    refused(graph_of([node(op, "x", **attributes)]), f"{op} is (not one|random)")


def test_integers_are_sizes_and_nothing_else():
    """Libraries end the process on the smallest integer divided by −1."""
    low, minus = constant("low", [-(2**63)]), constant("minus", [-1])
    divided = [node("Div", "low minus", "d"), IDENTITY]
    refused(graph_of(divided, [low, minus]), "Div: wanted floating-point tensors, got int64")
    cast = [node("Cast", "x", "i", to=TensorProto.INT64), IDENTITY]
    refused(graph_of(cast), "Cast to the type 7")
    unknown = [node("Gather", "x i", "g", axis=1), IDENTITY]
    outside = constant("i", [7])
    refused(graph_of(unknown, [outside]), "Gather of place")


@pytest.mark.parametrize(
    ("nodes", "initialisers", "says"),
    [
        (
            [node("Expand", "c s", "e"), node("ReduceMean", "e a", "m", keepdims=0), node("Add", "x m")],
            [C, constant("s", [1, 1 << 29, 3]), constant("a", [1])],
            "FSFAST_MAX_ROW_MB",
        ),
        (
            [node("Reshape", "x s", "r"), IDENTITY],
            [constant("s", [1, 7])],
            r"Reshape of \[1, 3\] to \[1, 7\]",
        ),
        ([node("Pad", "x p", "q"), IDENTITY], [constant("p", [0, 0, 0, 1 << 30])], "FSFAST_MAX_ROW_MB"),
        ([node("MatMul", "x x")], [], "MatMul"),
        ([node("Identity", "z")], [], "reads 'z', which nothing has made"),
        ([IDENTITY, IDENTITY], [], "writes 'y' again"),
        ([node("Identity", "x", "w")], [], "wanted 'y' float32 .* got nothing"),
        ([node("Transpose", "x", perm=[1, 0])], [], "Transpose of"),
        ([node("Transpose", "x", perm=[1, 1])], [], "Transpose"),
        ([node("Softmax", "x", axis=5)], [], "axis 5 of 2"),
        ([node("Softmax", "x", sharpness=5)], [], "attribute 'sharpness'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_graphs_that_are_refused(nodes, initialisers, says):
    refused(graph_of(nodes, initialisers), says)


def test_work_has_a_budget_that_can_be_raised(monkeypatch):
    weight = numpy_helper.from_array(np.zeros((3, 3), np.float32), "w")
    names = ["x", *(f"t{i}" for i in range(99)), "y"]
    nodes = [node("MatMul", f"{a} w", b) for a, b in pairwise(names)]
    content = graph_of(nodes, [weight])
    monkeypatch.setenv("FSFAST_MAX_ROW_GIGAPRODUCTS", "1e-7")
    refused(content, "needs .* billion multiplications, at most .* set FSFAST_MAX_ROW_GIGAPRODUCTS")
    monkeypatch.setenv("FSFAST_MAX_ROW_GIGAPRODUCTS", "nonsense")
    refused(content, "wanted a positive number in FSFAST_MAX_ROW_GIGAPRODUCTS")
    monkeypatch.setenv("FSFAST_MAX_ROW_GIGAPRODUCTS", "1")
    check_graph(content, WEIGHTS)


@pytest.mark.parametrize(
    "options",
    [
        {"producer_name": "fsfast2"},
        {"producer_name": ""},
        {"producer_version": "1"},
        {"doc_string": "x"},
        {"domain": "x"},
    ],
    ids=str,
)
def test_what_the_export_does_not_write(options):
    refused(graph_of([IDENTITY], **options), "producer fsfast|is not empty")


def test_descriptions_and_metadata():
    for change in (
        lambda model: model.graph.metadata_props.add(key="a", value="b"),
        lambda model: setattr(model.graph, "doc_string", "a"),
        lambda model: setattr(model.graph.node[0], "doc_string", "a"),
        lambda model: setattr(model.graph.input[0], "doc_string", "a"),
        lambda model: model.graph.value_info.append(model.graph.input[0]),
        lambda model: model.metadata_props.add(key="a", value="b"),
    ):
        model = onnx.load_model_from_string(graph_of([IDENTITY]))
        change(model)
        refused(model.SerializeToString(), "not empty|not written|not allowed")


@pytest.mark.parametrize("name", ["of the graph", "of a node", "of an attribute's tensor", "of the input"])
def test_names_that_are_no_text(name):
    """A library that puts one into its log fails in the middle of something else."""
    constant_node = node(
        "Constant", "", "c", value=numpy_helper.from_array(np.zeros((1, 3), np.float32), "zzzz")
    )
    model = onnx.load_model_from_string(graph_of([constant_node, node("Add", "x c")]))
    if name == "of the graph":
        model.graph.name = "zzzz"
        model.graph.node[0].attribute[0].t.name = "c"
    elif name == "of a node":
        model.graph.node[1].name = "zzzz"
        model.graph.node[0].attribute[0].t.name = "c"
    elif name == "of the input":
        model.graph.input[0].name = model.graph.node[1].input[0] = "zzzz"
        model.graph.node[0].attribute[0].t.name = "c"
    content = model.SerializeToString()
    check_graph(content, WEIGHTS)
    refused(content.replace(b"zzzz", b"zz\x80z"), "utf-8")


def test_bytes_that_another_format_would_claim():
    """ONNX Runtime takes "ORTM" at offset 4 for its own format: the name of the graph could put it there."""
    inside = bytes([0x12, 0x4F]) + b"RTM" + b"a" * 76
    content = graph_of([IDENTITY])
    graph = onnx.load_model_from_string(content).graph
    graph.ClearField("name")
    body = inside + graph.SerializeToString()
    size = len(body)
    forged = bytes([0x3A, size & 127 | 128, size >> 7]) + body
    assert forged[4:8] == b"ORTM"
    model = onnx.load_model_from_string(content)
    model.ClearField("graph")
    refused(forged + model.SerializeToString(), "producer fsfast")


def check_at(content: bytes, rows: int) -> None:
    check_graph(content, WEIGHTS, rows=rows)


WEIGHT = numpy_helper.from_array(np.zeros((3, 3), np.float32), "w")


@pytest.mark.parametrize(
    ("nodes", "initialisers"),
    [
        ([node("ReduceMean", "x a", "m"), node("Add", "x m")], [constant("a", [0])]),
        ([node("Softmax", "x", axis=0)], []),
        ([node("Transpose", "x", "t"), node("Softmax", "t", "u", axis=1), node("Transpose", "u")], []),
        ([node("Transpose", "x", "t"), node("MatMul", "x t", "g"), node("MatMul", "g x")], []),
        ([node("Gemm", "x x", "g", transB=1), node("MatMul", "g x")], []),
        ([node("Slice", "x s e", "h"), node("Concat", "h h", axis=0)], [constant("s", [0]), constant("e", [2])]),
        ([node("Gather", "x i", "g", axis=0), node("Add", "x g")], [constant("i", 0)]),
        ([node("Reshape", "x s", "r"), node("ReduceMean", "r a", "m"), node("Reshape", "m t")],
         [constant("s", [3, -1]), constant("a", [1]), constant("t", [-1, 3])]),
        ([node("Unsqueeze", "x z", "u"), node("Softmax", "u", "v", axis=1), node("Squeeze", "v z")],
         [constant("z", [0])]),
        ([node("Concat", "c x", "k", axis=0), node("Slice", "k s e")],
         [numpy_helper.from_array(np.zeros((1, 3), np.float32), "c"), constant("s", [1]), constant("e", [9])]),
        # Another number for each place.
        ([node("Add", "x p")], [numpy_helper.from_array(np.zeros((4, 3), np.float32), "p")]),
        ([node("Mul", "x p")], [numpy_helper.from_array(np.zeros((4, 1), np.float32), "p")]),
    ],
)  # fmt: skip
def test_rows_do_not_enter_each_other(nodes, initialisers):
    """Whatever the input: a self-test would have to meet the right one."""
    with pytest.raises(ValueError, match=r"rows|Transpose|Gemm|Unsqueeze|along axis 0"):
        check_at(graph_of(nodes, initialisers), 4)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_what_networks_do_with_rows(rows):
    """Tokens are folded into rows and back, a class token is put before them, attention works inside each row."""
    nodes = [
        node("Shape", "x", "m", start=0, end=1),
        node("Unsqueeze", "x one", "u"),
        node("Concat", "m t", "s", axis=0),
        node("Expand", "c s", "class"),
        node("Concat", "class u", "k", axis=1),
        node("Reshape", "k flat", "f"),
        node("Gemm", "f w", "g"),
        node("Concat", "m back", "b", axis=0),
        node("Reshape", "g b", "h"),
        node("Transpose", "h", "ht", perm=[0, 2, 1]),
        node("MatMul", "h ht", "a"),
        node("Softmax", "a", "p", axis=-1),
        node("MatMul", "p h", "q"),
        node("ReduceMean", "q one", "y", keepdims=0),
    ]
    initialisers = [
        constant("one", [1]), constant("t", [1, 3]), constant("flat", [-1, 3]), constant("back", [2, 3]), WEIGHT,
        numpy_helper.from_array(np.zeros((1, 1, 3), np.float32), "c"),
    ]  # fmt: skip
    check_at(graph_of(nodes, initialisers), rows)


def test_two_places_for_values_are_none():
    """ONNX Runtime and OpenVINO read the one that fits the type, whatever else is there."""
    shape = constant("s", [1, 3])
    shape.float_data.extend([1, 3])
    shape.ClearField("raw_data")
    shape.int64_data.extend([200_000_000, 3])
    refused(graph_of([node("Reshape", "x s")], [shape]), "holds .*float_data.*, its type is int64")
    both = helper.make_node("Constant", [], ["s"], value_ints=[1, 3])
    both.attribute.add(name="value_int", type=2, i=1)
    refused(graph_of([both, node("Reshape", "x s")]), "Constant with 2 values")


@pytest.mark.parametrize(
    ("nodes", "initialisers", "says"),
    [
        ([node("Mul", "a a", "b"), IDENTITY], [constant("a", [1 << 16], np.int32)], "wanted floating-point"),
        ([node("Mul", "a a", "b"), IDENTITY], [constant("a", [1 << 40])], "of sizes beyond"),
        ([node("Sub", "a b", "c"), IDENTITY], [constant("a", [0]), constant("b", [-(2**63)])], "of sizes beyond"),
        ([node("Conv", "u v b", "w"), IDENTITY],
         [zeros("u", 1, 3, 4, 4), zeros("v", 5, 3, 1, 1), zeros("b", 1)],
         "a bias of"),
        ([node("Pad", "x p", "q", mode="reflect"), IDENTITY], [constant("p", [0, 9, 0, 9])], "with the mode 'reflect'"),
        ([node("Pad", "x p", "q", mode="wrap"), IDENTITY], [constant("p", [0, 1, 0, 1])], "with the mode 'wrap'"),
        ([node("Reshape", "x s", "r"), node("Resize", "r  f", "z"), IDENTITY],
         [constant("s", [1, 1, 1, 1, 1, 3]), constant("f", [1, 1, 1, 1, 1, 2], np.float32)], "Resize"),
        ([node("MaxPool", "u", "w", kernel_shape=[2, 2], ceil_mode=1), IDENTITY],
         [zeros("u", 1, 3, 5, 5)], "sizes rounded down"),
        ([node("MaxPool", "u", "w", kernel_shape=[2, 2], auto_pad="SAME_UPPER"), IDENTITY],
         [zeros("u", 1, 3, 5, 5)], "padding in numbers"),
        ([node("Gemm", "x w c")], [WEIGHT, zeros("c", 5, 1, 3)], "Gemm"),
        ([node("PRelu", "x c", "d"), IDENTITY], [zeros("c", 5, 1, 3)], "PRelu"),
        ([node("LayerNormalization", "x c", "d"), IDENTITY], [zeros("c", 2)], "LayerNormalization"),
        ([node("ReduceMean", "x", "d", axes=[1]), IDENTITY], [], "attribute 'axes'"),
        ([node("Unsqueeze", "x a", "u"), IDENTITY], [constant("a", [1, 1])], "Unsqueeze"),
        ([helper.make_node("Split", ["x"], [], axis=1), IDENTITY], [], "no output"),
        ([node("Resize", "u  f", "w", keep_aspect_ratio_policy="not_smaller"), IDENTITY],
         [zeros("u", 1, 3, 5, 5), constant("f", [1, 1, 2, 2], np.float32)], "stretched"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_where_libraries_differ_or_fail(nodes, initialisers, says):
    """Found by an adversary: each ended a process, wrote beyond a tensor, or made it larger than it was taken for."""
    refused(graph_of(nodes, initialisers), says)


def test_sizes_that_double_are_not_followed_for_ever():
    names = ["a", *(f"a{i}" for i in range(12))]
    nodes = [node("Concat", f"{one} {one}", two, axis=0) for one, two in pairwise(names)]
    content = graph_of([*nodes, IDENTITY], [constant("a", list(range(500)))])
    check_graph(content, WEIGHTS)
    refused(
        graph_of([*nodes, node("Reshape", f"x {names[-1]}")], [constant("a", list(range(500)))]),
        "must be numbers",
    )


def test_constants_that_are_made_are_kept():
    """Libraries compute them when they open a graph, and hold them."""
    made = [node("Expand", "c s", f"e{i}") for i in range(40)]
    used = [node("ReduceMax", f"e{i} a", f"m{i}", keepdims=0) for i in range(40)]
    ends = [node("Add", f"{'x' if not i else f't{i - 1}'} m{i}", f"t{i}") for i in range(40)]
    pairs = [n for pair in zip(made, used, strict=True) for n in pair]
    content = graph_of(
        [*pairs, *ends, node("Identity", "t39")], [C, constant("s", [1, 1 << 24, 3]), constant("a", [1])]
    )
    refused(content, "FSFAST_MAX_ROW_MB")


def test_weights_that_are_stored_in_half_count_in_full():
    """What a cast makes of them is held as long as the network is, once for all rows."""
    cast = node("Cast", "w", "wide", to=TensorProto.FLOAT)
    half = external("w", (3, 3), TensorProto.FLOAT16, length="18")
    plain = graph_of([node("MatMul", "x w")], [external("w", (3, 3), length="36")])
    stored = graph_of([cast, node("MatMul", "x wide")], [half])
    check_graph(stored, WEIGHTS, rows=5)
    for rows in (1, 5):
        wide, narrow = (demand_of(parse_graph(content), rows) for content in (plain, stored))
        assert narrow.peak_bytes == wide.peak_bytes + 36
    with pytest.raises(ValueError, match=r"wanted 'y' float32 \[1, 3\] of the rows"):
        check_graph(graph_of([node("Cast", "w", to=TensorProto.FLOAT)], [half]), WEIGHTS)
    integers = external("w", (3, 3), TensorProto.INT8, length="9")
    refused(graph_of([cast, node("MatMul", "x wide")], [integers]), "wanted floating-point tensors, got int8")


def test_initialisers_that_share_a_place():
    tensors = [external(name, (3, 3), length="36") for name in ("w", "v")]
    content = graph_of([node("MatMul", "x w", "t"), node("MatMul", "t v")], tensors)
    check_graph(content, WEIGHTS, weights_bytes=80)
    with pytest.raises(ValueError, match="some share a place"):
        check_graph(content, WEIGHTS, weights_bytes=44)


def test_what_a_checker_could_stumble_over():
    """Errors of NumPy and struct, and long ones, are one short line."""
    floats = helper.make_node("Constant", [], ["c"], value_floats=[1.0])
    content = graph_of([floats, IDENTITY])
    packed = helper.make_attribute("value_floats", [1.0]).SerializeToString()
    assert content.count(packed) == 1
    spoiled = graph_of([helper.make_node("A\x1b[31m\nB" * 500, ["x"], ["y"])])
    with pytest.raises(ValueError, match=r"\\u001b") as said:
        check_graph(spoiled, WEIGHTS)
    assert len(str(said.value)) <= 400
    assert "\n" not in str(said.value)
    deep = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", *[1 << 30] * 60])
    model = onnx.load_model_from_string(graph_of([IDENTITY]))
    model.graph.input[0].CopyFrom(deep)
    refused(model.SerializeToString(), "wanted 'x'")


def test_a_dimensions_name_is_text():
    """ONNX Runtime's binding raises UnicodeDecodeError where somebody asks for the shape."""
    content = graph_of([IDENTITY])
    assert content.count(b"\x12\x01M") == 2
    refused(content.replace(b"\x12\x01M", b"\x12\x01\xc7"), "can't decode byte 0xc7")
