"""Graphs of other people's for any number of rows: the same function, by operators that an engine may run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime import InferenceSession

from export.onnx_file import read_onnx
from export.onnx_rows import for_any_rows
from export.weights import in_memory
from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.engine.graph_check import check_graph
from tests.export.onnx_files import convolutions, model, node, saved, sizes, weights

FREE, ONE = ("batch", 3, 8, 8), (1, 3, 8, 8)
PATCHES = [
    node("Conv", "x w", "p", strides=[4, 4]),
    node("Reshape", "p flat", "f"),
    node("Transpose", "f", "t", perm=[0, 2, 1]),
]
WEIGHTS = {"w": weights(6, 3, 4, 4), "flat": sizes(0, 6, -1), "cls": weights(1, 1, 6)}
SIX = {"n6": sizes(6), "one": sizes(1), "zero": sizes(0), "first": np.array(0, np.int64)}


def token(batch):
    """A class token, repeated by sizes that the graph computes, or as it stands where the batch is one."""
    computed = [
        node("Shape", "x", "s"),
        node("Gather", "s first", "m", axis=0),
        node("Unsqueeze", "m zero", "m1"),
        node("Concat", "m1 one n6", "shape", axis=0),
        node("Expand", "cls shape", "tokens"),
    ]
    joined = node("Concat", f"{'cls' if batch else 'tokens'} t", "y", axis=1)
    return [joined] if batch else [*computed, joined]


def attention(*chosen: onnx.NodeProto):
    """Queries, keys and values of one product, whose rows lie along axis 1 in between."""
    return [
        *PATCHES,
        node("MatMul", "t qkv", "a"),
        node("Reshape", "a heads", "b"),
        node("Transpose", "b", "c", perm=[2, 0, 3, 1, 4]),
        *chosen,
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q kt", "l"),
        node("Softmax", "l", "soft", axis=-1),
        node("MatMul", "soft v", "o"),
        node("Transpose", "o", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "back joined", "y"),
    ]


SPLIT = attention(
    node("Split", "c", "q1 k1 v1", axis=0, num_outputs=3),
    *(node("Squeeze", f"{name}1 zero", name) for name in "qkv"),
)
GATHERED = attention(*(node("Gather", f"c {i}", name, axis=0) for i, name in enumerate("qkv")))
SLICED = attention(
    *(
        one
        for i, name in enumerate("qkv")
        for one in (
            node("Slice", f"c from{i} from{i + 1} zero", f"{name}1"),
            node("Squeeze", f"{name}1 zero", name),
        )
    )
)
QKV = {
    "qkv": weights(6, 18),
    "heads": sizes(-1, 4, 3, 2, 3),
    "joined": sizes(-1, 4, 6),
    "zero": sizes(0),
    **{str(i): np.array(i, np.int64) for i in range(3)},
    **{f"from{i}": sizes(i) for i in range(4)},
}


def sequence_first():
    """torch's own attention: positions first, rows second, then heads beside the rows, and back."""
    heads = [
        one
        for i, name in enumerate("qkv")
        for one in (
            node("Gather", f"five {i}", f"{name}0", axis=0),
            node("Reshape", f"{name}0 beside", f"{name}1"),
            node("Transpose", f"{name}1", f"{name}2", perm=[1, 0, 2]),
        )
    ]
    return [
        *(*PATCHES, node("Transpose", "t", "first", perm=[1, 0, 2])),
        *(
            node("LayerNormalization", "first gain", "n"),
            node("MatMul", "n qkv", "a"),
            node("Add", "a bias", "b"),
        ),
        *(node("Reshape", "b parts", "c"), node("Unsqueeze", "c zero", "d")),
        *(node("Transpose", "d", "e", perm=[3, 1, 2, 0, 4]), node("Squeeze", "e last", "five"), *heads),
        *(
            node("Transpose", "k2", "kt", perm=[0, 2, 1]),
            node("MatMul", "q2 kt", "l"),
            node("Softmax", "l", "s"),
        ),
        *(
            node("MatMul", "s v2", "o"),
            node("Reshape", "o apart", "h"),
            node("Transpose", "h", "p0", perm=[2, 0, 1, 3]),
        ),
        *(
            node("Reshape", "p0 joined", "j"),
            node("Gemm", "j w2 bias2", "g", transB=1),
            node("Reshape", "g back", "r"),
        ),
        *(
            node("Add", "first r", "sum"),
            node("Gelu", "sum", "z"),
            node("Transpose", "z", "y", perm=[1, 0, 2]),
        ),
    ]


SEQUENCE = {
    **{
        "qkv": weights(6, 18),
        "bias": weights(18),
        "gain": weights(6),
        "w2": weights(6, 6),
        "bias2": weights(6),
    },
    **{"parts": sizes(4, -1, 3, 6), "zero": sizes(0), "last": sizes(-2), "beside": sizes(4, -1, 3)},
    **{"apart": sizes(-1, 2, 4, 3), "joined": sizes(-1, 6), "back": sizes(4, -1, 6)},
    **{str(i): np.array(i, np.int64) for i in range(3)},
}
JOINED = [node("Conv", "x w", "p", strides=[4, 4]), node("Reshape", "p to", "f"), node("MatMul", "f m", "y")]
STRIDED = [node("ReduceMean", "x axes", "a"), node("Reshape", "a all", "b"), node("Gather", "b places", "y")]
NOTHING = [
    *(node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Cast", "d", "c", to=1)),
    *(node("Mul", "s s", "squared"), node("Mul", "c squared", "y")),
]
FORMS = [
    *(node("Clip", "x low", "a"), node("Pow", "a two", "b")),
    *(node("GlobalAveragePool", "b", "c"), node("Squeeze", "c", "y")),
]
# A limit that is also added, and sizes that two tokens are repeated by.
SHARED = [
    *(*PATCHES, node("Clip", "t low", "clipped"), node("Add", "clipped low", "a")),
    *token(None)[:-1],
    node("Expand", "cls2 shape", "tokens2"),
    node("Concat", "tokens tokens2 a", "y", axis=1),
]
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
# Name → nodes, values, the shape of the pictures that the file is written for.
CASES = {
    # Sizes that are computed from sizes, to repeat a constant for every row.
    "class token": ([*PATCHES, *token(None)], WEIGHTS | SIX, FREE),
    "class token for one": ([*PATCHES, *token(1)], WEIGHTS | SIX, ONE),
    "shared constants": (
        SHARED,
        WEIGHTS | SIX | {"low": np.array([-0.5], np.float32), "cls2": weights(1, 1, 6)},
        FREE,
    ),
    # Shapes in which the batch is written.
    "shapes for one": (JOINED, WEIGHTS | {"to": sizes(1, 24), "m": weights(24, 3)}, ONE),
    "shapes for two": (JOINED, WEIGHTS | {"to": sizes(2, -1), "m": weights(24, 3)}, (2, 3, 8, 8)),
    "sizes for one": ([node("Resize", "x   to", "y", mode="nearest")], {"to": sizes(1, 3, 4, 4)}, ONE),
    # Rows away from axis 0, and back.
    "split": (SPLIT, WEIGHTS | QKV, FREE),
    "gathered": (GATHERED, WEIGHTS | QKV, FREE),
    "sliced": (SLICED, WEIGHTS | QKV, ONE),
    "sequence first": (sequence_first(), WEIGHTS | SEQUENCE, FREE),
    # torch's as_strided: all elements, gathered in their order.
    "as strided": (
        STRIDED,
        {"axes": sizes(2, 3), "all": sizes(-1), "places": np.arange(3).reshape(1, 3, 1, 1)},
        ONE,
    ),
    # Padding that is the operator's to choose, and rounding that changes nothing.
    "same upper": (
        [node("Conv", "x w3", auto_pad="SAME_UPPER", strides=[2, 2])],
        {"w3": weights(4, 3, 3, 3)},
        FREE,
    ),
    "same lower": ([node("MaxPool", "x", auto_pad="SAME_LOWER", **POOL)], {}, FREE),
    "ceil mode": ([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, FREE),
    # What does nothing, and constants that are computed from constants.
    "nothing": (NOTHING, {"s": weights(1, 3, 1, 1)}, FREE),
    # Limits, exponents and axes in the forms that other exporters write.
    "forms": (FORMS, {"low": np.array([-0.5], np.float32), "two": np.array(2, np.int64)}, FREE),
}


def original(content: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    return InferenceSession(content.SerializeToString()).run(None, {"x": pixels})[0]


def rows_of(content: onnx.ModelProto, path, layout=None):
    """Return what becomes of a model of pictures, checked as an engine's graph is."""
    file = read_onnx(saved(content, path / "x.onnx"))
    found = for_any_rows(file, "x", file.outputs[0].name, (8, 8), layout, ("pixels", "tokens"))
    graph, values = in_memory(found.graph)
    for count in (1, 4):
        check_graph(graph, "weights", rows=count)
    return found, open_session(graph, bytes(values) or b"\0")


@pytest.mark.parametrize("name", CASES)
def test_the_same_function_of_any_number_of_rows(name, tmp_path):
    nodes, values, shape = CASES[name]
    content = model(nodes, values, shape)
    found, session = rows_of(content, tmp_path)
    batch = shape[0] if isinstance(shape[0], int) else 4
    pixels = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    wanted = np.concatenate([original(content, pixels[i : i + batch]) for i in range(0, 4, batch)])
    got = session.run(None, {"pixels": pixels})[0]
    assert got.shape == (4, *found.features)
    wanted = wanted.reshape(4, wanted.shape[1], -1)
    if found.layout == "map":
        wanted = wanted.transpose(0, 2, 1)
    np.testing.assert_allclose(got, wanted.reshape(got.shape), rtol=1e-4, atol=1e-5)
    one = session.run(None, {"pixels": pixels[2:3]})[0]
    np.testing.assert_allclose(one, got[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "size", "features", "order"),
    [
        (None, (2, 5, 4, 4), (16, 5), (0, 2, 3, 1)),
        ("map", (2, 5, 4, 4), (16, 5), (0, 2, 3, 1)),
        ("map-last", (2, 5, 4, 4), (20, 4), (0, 1, 2, 3)),
    ],
)
def test_maps_become_tokens(layout, size, features, order, tmp_path):
    """Place by place, from the top left along the rows of the picture."""
    content = convolutions()
    found, session = rows_of(content, tmp_path, layout)
    pixels = weights(2, 3, 8, 8)
    wanted = original(content, pixels)
    assert (wanted.shape, found.features) == (size, features)
    got = session.run(None, {"pixels": pixels})[0]
    np.testing.assert_allclose(got, wanted.transpose(order).reshape(got.shape), rtol=1e-4, atol=1e-5)


def control_flow():
    body = helper.make_graph(
        [node("Identity", "x", "z")], "body", [], [helper.make_empty_tensor_value_info("z")]
    )
    return node("If", "on", "y", then_branch=body, else_branch=body)


REFUSED = {
    "a subgraph": ([control_flow()], {"on": np.array(True)}, "node '/y' of type If holds a subgraph"),
    "random numbers": (
        [node("RandomNormalLike", "x", "y")],
        {},
        "node '/y' of type RandomNormalLike is random",
    ),
    "a Dropout that is on": (
        [node("Dropout", "x ratio on", "y")],
        {"ratio": np.array(0.5, np.float32), "on": np.array(True)},
        "node '/y' of type Dropout: the operator",
    ),
    "another domain": (
        [helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")],
        {},
        "node 'y' of type FusedConv: wanted operators of plain ONNX, got the domain 'com.microsoft'",
    ),
    "an operator that is not on the list": (
        [node("NonZero", "x", "y")],
        {},
        "node '/y' of type NonZero: the operator",
    ),
    "a mean over the batch": (
        [node("ReduceMean", "x zero", "y")],
        {"zero": sizes(0)},
        "node '/y' of type ReduceMean: .*would bring rows of the micro-batch together",
    ),
    "attention among the rows": (
        [node("Flatten", "x", "f"), node("Transpose", "f", "t", perm=[1, 0]), node("MatMul", "t f", "y")],
        {},
        "node '/y' of type MatMul: rows of the micro-batch lie along axis 1 of an input",
    ),
    "rows in one": (
        [node("Reshape", "x all", "y")],
        {"all": sizes(1, -1)},
        "node '/y' of type Reshape: .*rows",
    ),
    "a constant for each row": (
        [node("Add", "x c", "y")],
        {"c": weights(2, 3, 8, 8)},
        "node '/y' of type Add: .*rows",
    ),
    "a constant that is too large": (
        [node("ConstantOfShape", "huge", "c"), node("Add", "x c", "y")],
        {"huge": sizes(1 << 20, 1 << 20)},
        "node '/c' of type ConstantOfShape: it would make a constant of 1099511627776 elements",
    ),
    "nothing of the input": (
        [node("Identity", "c", "y")],
        {"c": weights(1, 3)},
        "'y' does not depend on the input 'x'",
    ),
    "an order that is none": (
        [node("Transpose", "x", "y", perm=[1, 1, 2, 3])],
        {},
        r"node '/y' of type Transpose: wanted an order of 4 axes, got \[1, 1, 2, 3\]",
    ),
    "an attribute of another kind": (
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=2)],
        {},
        "node '/y' of type MaxPool is malformed",
    ),
    "rounding up": (
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
        "node '/y' of type MaxPool: .*sizes rounded down",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_engine_may_run_is_refused_by_its_name(name, tmp_path):
    nodes, values, says = REFUSED[name]
    content = model(nodes, values)
    content.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ValueError, match=says) as caught:
        rows_of(content, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_the_output_does_not_need_is_left_out(tmp_path):
    """A head that no engine could run stands in no one's way."""
    content = convolutions()
    content.graph.node.append(node("NonZero", "y", "places"))
    found, _ = rows_of(content, tmp_path)
    assert {"NonZero"} not in {n.op_type for n in found.graph.model.graph.node}
    assert found.features == (16, 5)
