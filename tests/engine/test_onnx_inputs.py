"""Weights become inputs: the same graph otherwise, as the onnx library reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fsfast.engine.onnx_inputs import weights_as_inputs
from tests.engine.onnx_graphs import external, model


def rewritten(graph: onnx.ModelProto) -> onnx.ModelProto:
    content, _ = weights_as_inputs(graph.SerializeToString())
    return onnx.load_from_string(content)


@pytest.mark.parametrize("stage", ["purifier", "encoder", "mapper"])
def test_the_networks_of_an_engine(demo_path, stage):
    """Nodes, outputs and small constants stay; each external initialiser is an input of its type and shape."""
    before = onnx.load(demo_path / f"{stage}.float32.onnx", load_external_data=False)
    after = rewritten(before)
    assert list(after.graph.node) == list(before.graph.node)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    is_external = [t.data_location == TensorProto.EXTERNAL for t in before.graph.initializer]
    inline = [t for t, out in zip(before.graph.initializer, is_external, strict=True) if not out]
    outside = [t for t, out in zip(before.graph.initializer, is_external, strict=True) if out]
    assert list(after.graph.initializer) == inline
    wanted = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in outside]
    assert list(after.graph.input) == [*before.graph.input, *wanted]
    onnx.checker.check_model(after)


@pytest.mark.parametrize(
    ("dtype", "dims"),
    [
        (TensorProto.INT8, (2, 3)),
        # A length beyond one byte of a varint.
        (TensorProto.FLOAT, (300, 200)),
        (TensorProto.INT32, (1,)),
        (TensorProto.FLOAT, ()),
    ],
    ids=["int8", "large", "int32", "scalar"],
)
def test_types_and_shapes(dtype, dims):
    size = np.dtype(helper.tensor_dtype_to_np_dtype(dtype)).itemsize
    tensor = external(dims=dims, data_type=dtype, length=str(int(np.prod(dims)) * size))
    (_, value) = rewritten(model(initialisers=[tensor])).graph.input
    assert value == helper.make_tensor_value_info("w", dtype, list(dims))


def test_a_name_that_is_longer_than_a_byte_counts():
    (_, value) = rewritten(model(initialisers=[external(name="ω" * 200)])).graph.input
    assert value.name == "ω" * 200


def test_a_graph_without_weights_stays_as_it_is():
    graph = model(initialisers=[helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])])
    assert rewritten(graph) == graph


def test_what_the_walk_refuses_is_refused():
    with pytest.raises(ValueError, match="malformed"):
        weights_as_inputs(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
