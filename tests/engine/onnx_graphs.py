"""Small ONNX graphs whose weights lie outside of them, as an engine's do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

WEIGHTS = "weights.float32.safetensors"


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


def external(name="w", dims=(2, 3), data_type=TensorProto.FLOAT, **changes) -> TensorProto:
    """Return a tensor whose content lies in the file of weights; a change of None leaves a key out."""
    tensor = TensorProto(
        name=name, dims=dims, data_type=data_type, data_location=changes.pop("data_location", 1)
    )
    for key, value in {"location": WEIGHTS, "offset": "8", "length": "24", **changes}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def model(nodes=(), initialisers=(), **options) -> onnx.ModelProto:
    """Return a model from x to y, [M, 3] float32 each; without nodes the identity."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", 3]) for name in "xy")
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y], list(initialisers)
    )
    return helper.make_model(graph, **{"producer_name": "fsfast", **options})
