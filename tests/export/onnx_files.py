"""Small ONNX graphs of other people's, as files and in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(7)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def sizes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op: str, inputs: str, outputs: str = "y", **attributes) -> onnx.NodeProto:
    """Return a node that is called as what it makes; two spaces stand around an input that is left out."""
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), name=f"/{outputs}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    values: Mapping[str, np.ndarray],
    shape: Sequence[int | str | None] = ("batch", 3, 8, 8),
    *,
    opset: int = 21,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """Return a model of pictures x."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    for end in ends:
        end.type.tensor_type.elem_type = TensorProto.FLOAT
    initialisers = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "main", [x], ends, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def convolutions(
    shape: Sequence[int | str | None] = ("batch", 3, 8, 8), *, opset: int = 21
) -> onnx.ModelProto:
    """Return two convolutions: a map [M, 5, 4, 4]."""
    nodes = [
        node("Conv", "x w0 b0", "a", strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", "a", "r"),
        node("Conv", "r w1", "y", kernel_shape=[1, 1]),
    ]
    return model(
        nodes, {"w0": weights(6, 3, 3, 3), "b0": weights(6), "w1": weights(5, 6, 1, 1)}, shape, opset=opset
    )


def saved(content: onnx.ModelProto, path: Path, **external) -> Path:
    """Write a model; with `external`, its weights beside it."""
    onnx.save(content, path, **external)
    return path
