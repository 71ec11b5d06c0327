"""Small ONNX graphs whose weights lie outside of them, as an engine's do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper


def with_external_weights(
    nodes: Sequence[onnx.NodeProto], ends: Sequence[onnx.ValueInfoProto], values: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """Return a model of nodes between one input and one output, whose float32 weights are named, not contained."""
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    for name, value in values.items():
        tensor = graph.initializer.add()
        tensor.name, tensor.data_type, tensor.data_location = name, TensorProto.FLOAT, TensorProto.EXTERNAL
        tensor.dims.extend(value.shape)
        tensor.external_data.add(key="length", value=str(value.nbytes))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
