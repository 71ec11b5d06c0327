"""Move the spread between channels from activations into weights, where every channel has a scale of its own.

A LayerNorm's output often has a few channels far larger than the rest; one scale for the whole tensor then leaves the
rest few levels. Dividing a channel by s in the normalisation and multiplying the next weight's column by s changes
nothing in exact arithmetic (SmoothQuant, arXiv 2211.10438, with its α = 0.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from .graph import ExportedGraph
from .qdq import Product, products


@dataclass(frozen=True)
class Normalisation:
    """A LayerNormalization that only products read.

    Attributes:
        index: of its node.
        output: name of the activation.
        weight, bias: names of its initialisers.
        readers: the products.
    """

    index: int
    output: str
    weight: str
    bias: str
    readers: tuple[Product, ...]


def normalisations(model: onnx.ModelProto) -> list[Normalisation]:
    """Return the normalisations whose channels may be scaled."""
    graph = model.graph
    external = {t.name for t in graph.initializer if t.data_location == TensorProto.EXTERNAL}
    readers: dict[str, list[Product]] = {}
    for product in products(model):
        if graph.node[product.index].op_type != "Conv" and product.weight in external:
            readers.setdefault(product.activation, []).append(product)
    uses: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        uses[name] = uses.get(name, 0) + 1
    found = []
    for index, node in enumerate(graph.node):
        if node.op_type != "LayerNormalization" or len(node.input) < 3 or not set(node.input[1:]) <= external:
            continue
        own = readers.get(node.output[0], [])
        if own and len(own) == uses[node.output[0]]:
            found.append(Normalisation(index, node.output[0], node.input[1], node.input[2], tuple(own)))
    return found


def equalise(
    model: onnx.ModelProto, values: Mapping[str, np.ndarray], largest: Mapping[str, np.ndarray]
) -> ExportedGraph:
    """Return a float32 graph with the same outputs up to rounding, whose channels are alike.

    Args:
        model: the float32 graph.
        values: name of an external initialiser → its values.
        largest: output of a normalisation → [D] largest magnitude of each channel.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = dict(values)
    for item in normalisations(model):
        columns = [_columns(product, values[product.weight]) for product in item.readers]
        weight = np.maximum.reduce([np.abs(matrix).max(1) for matrix in columns])
        scale = np.sqrt(np.maximum(largest[item.output], 1e-5) / np.maximum(weight, 1e-5)).astype(np.float32)
        # Normalisations and products may share initialisers with others: these get their own.
        node = changed.graph.node[item.index]
        for i, name in ((1, item.weight), (2, item.bias)):
            node.input[i] = _add(changed, stored, f"{item.output}.{i}", values[name] / scale)
        for product in item.readers:
            value = values[product.weight]
            factor = scale[:, None] if product.axis == 1 else scale[None, :]
            name = f"{changed.graph.node[product.index].output[0]}.weight"
            changed.graph.node[product.index].input[1] = _add(changed, stored, name, value * factor)
    used = {name for node in changed.graph.node for name in node.input}
    kept = [tensor for tensor in changed.graph.initializer if tensor.name in used]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    weights = {name: value for name, value in stored.items() if name in used}
    return ExportedGraph(changed, weights, {name: name for name in weights})


def _columns(product: Product, value: np.ndarray) -> np.ndarray:
    """Return a product's weight with a row per input channel, [D, outputs]."""
    return value if product.axis == 1 else value.T


def _add(model: onnx.ModelProto, stored: dict[str, np.ndarray], name: str, value: np.ndarray) -> str:
    stored[name] = value.astype(np.float32)
    tensor = model.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = name, TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.extend(value.shape)
    tensor.external_data.add(key="length", value=str(stored[name].nbytes))
    return name


def watch_channels(model: onnx.ModelProto, names: Sequence[str], sizes: Sequence[int]) -> onnx.ModelProto:
    """Return the graph with one more output per activation: the largest magnitude of each of its channels."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    graph.initializer.append(helper.make_tensor("channels.axes", TensorProto.INT64, [1], [0]))
    for name, size in zip(names, sizes, strict=True):
        shape, output = f"{name}.shape", f"{name}.channels"
        graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [2], [-1, size]))
        graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}.abs"]),
                helper.make_node("Reshape", [f"{name}.abs", shape], [f"{name}.rows"]),
                helper.make_node("ReduceMax", [f"{name}.rows", "channels.axes"], [output], keepdims=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [size]))
    return watched
