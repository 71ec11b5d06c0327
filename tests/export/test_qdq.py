"""8-bit products against the formula in float64: rounded activations times rounded weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.calibration import activation_ranges
from export.qdq import products, quantise
from export.weights import in_memory
from fsfast.backends.onnxruntime.cpu import open_session
from tests.engine.onnx_graphs import with_external_weights

RANDOM = np.random.default_rng(0)
# Uneven on purpose: zero must keep a level of its own.
LOW, HIGH = -0.7, 2.9


def graph_of(
    op: str, weight: np.ndarray, shapes: tuple[list, list], bias: np.ndarray | None = None, **attributes
):
    """A graph with one product behind an Identity, so that it is not a network's first layer; returns its weights."""
    values = {"w": weight} | ({"b": bias} if bias is not None else {})
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node(op, ["a", *values], ["y"], **attributes),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True)]
    return with_external_weights(nodes, ends, values), values


def rounded_activation(x: np.ndarray) -> np.ndarray:
    scale = np.float64(np.float32((HIGH - LOW) / 255))
    zero = round(-LOW / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def rounded_weight(w: np.ndarray, axis: int, limit: int) -> np.ndarray:
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = (np.abs(w).max(others, keepdims=True) / limit).astype(np.float32).astype(np.float64)
    return np.clip(np.rint(w / scale), -limit, limit) * scale


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def convolution(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """[M, C, H, W] with [O, C, 3, 3], no padding."""
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("mchwij,ocij->mohw", patches, w)


CASES = {
    "Gemm, transposed": (["M", 5], "Gemm", normal(4, 5), 0, {"transB": 1}, lambda x, w: x @ w.T, (7, 5)),
    "Gemm": (["M", 5], "Gemm", normal(5, 4), 1, {}, lambda x, w: x @ w, (7, 5)),
    "MatMul": (["M", 3, 5], "MatMul", normal(5, 4), 1, {}, lambda x, w: x @ w, (2, 3, 5)),
    "Conv": (["M", 2, 6, 6], "Conv", normal(4, 2, 3, 3), 0, {}, convolution, (2, 2, 6, 6)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("weight_bits", "limit"), [(7, 64), (8, 127)])
def test_a_product_is_that_of_rounded_numbers(case, with_bias, weight_bits, limit):
    shape, op, weight, axis, attributes, product, size = CASES[case]
    bias = normal(weight.shape[axis]) if with_bias and op != "MatMul" else None
    out = [None] * len(shape)
    model, values = graph_of(op, weight, (shape, out), bias, **attributes)
    graph, weights = in_memory(quantise(model, values, {"a": (LOW, HIGH)}, weight_bits))
    # Some values lie beyond the range: they saturate.
    x = RANDOM.uniform(LOW - 0.5, HIGH + 0.5, size).astype(np.float32)
    got = open_session(graph, weights).run(None, {"x": x})[0]
    wanted = product(
        rounded_activation(x.astype(np.float64)), rounded_weight(weight.astype(np.float64), axis, limit)
    )
    if bias is not None:
        wanted = wanted + (bias.reshape(-1, 1, 1) if op == "Conv" else bias)
    # The bias is rounded to the scale of the sum, far finer than the levels of the factors.
    np.testing.assert_allclose(got, wanted, atol=3e-4)


def test_weights_are_stored_in_8_bits_once():
    """Two products with one weight: one stored copy, and the float32 one is gone."""
    model, values = graph_of("MatMul", normal(5, 5), (["M", 5], ["M", 5]))
    model.graph.node.append(helper.make_node("MatMul", ["a", "w"], ["z"]))
    model.graph.node.append(helper.make_node("Add", ["y", "z"], ["sum"]))
    model.graph.output[0].name = "sum"
    exported = quantise(model, values, {"a": (LOW, HIGH)})
    assert {name: value.dtype.name for name, value in exported.weights.items()} == {
        "w.int8": "int8",
        "w.scale": "float32",
        "zeros.int8.5": "int8",
    }
    assert sum(node.op_type == "QuantizeLinear" for node in exported.model.graph.node) == 1


def test_what_stays_in_floating_point():
    """The first layer; products of two activations, as in attention; a Gemm that is more than one."""
    square = normal(4, 4)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("MatMul", ["first", "first"], ["attention"]),
        helper.make_node("Gemm", ["attention", "w"], ["scaled"], alpha=0.5),
        helper.make_node("Gemm", ["attention", "w"], ["turned"], transA=1),
        helper.make_node("MatMul", ["attention", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy")
    weight = onnx.numpy_helper.from_array(square, "w")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]))
    assert [product.index for product in products(model)] == [4]


@pytest.mark.parametrize("moved", ["Reshape", "Transpose", "Pad"])
def test_the_first_layer_sees_pixels_that_were_only_moved(moved):
    """As squares of pixels that became channels, or with a border."""
    sizes = {"Reshape": ["square"], "Pad": ["border"]}.get(moved, [])
    nodes = [
        helper.make_node(moved, ["x", *sizes], ["moved"]),
        helper.make_node("MatMul", ["moved", "w"], ["first"]),
        helper.make_node("Transpose", ["first"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    values = {"w": normal(4, 4), "square": np.array([4, 4]), "border": np.zeros(4, np.int64)}
    initialisers = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], initialisers))
    assert [product.index for product in products(model)] == [3]


def test_ranges_are_the_extremes_over_all_samples():
    model, values = graph_of("MatMul", normal(5, 4), (["M", 5], ["M", 4]))
    content = in_memory(quantise(model, values, {}))
    inputs = [normal(1, 5) for _ in range(6)]
    ranges, outputs = activation_ranges(onnx.load_from_string(content[0]), content[1], ["a", "y"], inputs)
    together = np.concatenate(inputs)
    assert ranges["a"] == (together.min(), together.max())
    np.testing.assert_allclose(np.concatenate(outputs), together @ values["w"], atol=1e-5)
    assert ranges["y"] == (min(y.min() for y in outputs), max(y.max() for y in outputs))
