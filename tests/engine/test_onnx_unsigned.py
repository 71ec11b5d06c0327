"""uint8 in the place of int8: the same numbers, and refusals where they would not be."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from export.weights import in_memory
from fsfast.backends.onnxruntime import cpu as onnxruntime
from fsfast.engine.onnx_arrays import stored_arrays
from fsfast.engine.onnx_unsigned import has_8_bit_products, may_saturate, with_unsigned_weights
from tests.engine.onnx_graphs import with_external_weights
from tests.export.test_qdq import HIGH, LOW, graph_of, normal, quantise, rounded_activation, rounded_weight


def eight_bit_graph(weight_bits: int = 8) -> tuple[bytes, bytearray]:
    model, values = graph_of("MatMul", normal(24, 7), (["M", 24], ["M", 7]))
    return in_memory(quantise(model, values, {"a": (LOW, HIGH)}, weight_bits))


def test_unsigned_weights_compute_the_same_integers(monkeypatch):
    weight = normal(24, 7)
    model, values = graph_of("MatMul", weight, (["M", 24], ["M", 7]))
    graph, weights = in_memory(quantise(model, values, {"a": (LOW, HIGH)}))
    x = np.random.default_rng(1).uniform(LOW, HIGH, (9, 24)).astype(np.float32)
    monkeypatch.setattr(onnxruntime, "sums_8_bit_products_exactly", lambda: False)
    got = onnxruntime.open_session(graph, weights).run(None, {"x": x})[0]
    wanted = rounded_activation(x.astype(np.float64)) @ rounded_weight(weight.astype(np.float64), 1, 127)
    # Pairs that saturate are off by up to 2.4 here.
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-5)


def test_what_changes():
    graph, weights = eight_bit_graph()
    arrays = stored_arrays(graph, weights)
    changed, unsigned = with_unsigned_weights(graph, arrays)
    assert has_8_bit_products(graph)
    assert not has_8_bit_products(changed)
    for name, array in arrays.items():
        if array.dtype == np.int8:
            np.testing.assert_array_equal(unsigned[name].astype(int) - 128, array)
            assert unsigned[name].dtype == np.uint8
        else:
            assert unsigned[name] is array


def test_only_weights_beyond_7_bits_may_saturate():
    assert may_saturate(stored_arrays(*eight_bit_graph(8)))
    assert not may_saturate(stored_arrays(*eight_bit_graph(7)))
    for extreme, saturates in ((64, False), (65, True), (-64, False), (-128, True)):
        assert may_saturate({"w": np.array([0, extreme], np.int8)}) is saturates
    # Two products of the largest activation with the largest safe weight just fit 16 bits.
    assert 2 * 255 * 64 <= 32767 < 2 * 255 * 65
    assert not may_saturate({"empty": np.zeros((0, 3), np.int8), "other": np.array([500], np.int32)})


def test_an_8_bit_initialiser_that_is_no_weight_is_refused():
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["M", 2]) for n in "xy"]
    values = {"w": np.array([[100, 2], [3, 4]], np.int8)}
    graph = with_external_weights(nodes, ends, values).SerializeToString()
    with pytest.raises(
        ValueError, match="Cast reads the 8-bit initialiser 'w'; wanted weight and zero point"
    ):
        with_unsigned_weights(graph, values)
