"""A float32 graph becomes an int8 graph: QuantizeLinear and DequantizeLinear around matrix products with fixed weights.

Only products of an activation with stored weights are quantised (Gemm, MatMul, Conv): weights per output channel,
symmetric; activations per tensor, with fixed scales. Attention's own products, softmax, normalisations and
activation functions stay in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from fsfast.engine.onnx_unsigned import SAFE_WEIGHT

from .graph import ExportedGraph

# Bits of a weight → its largest magnitude; weights are symmetric. With 7 bits no pair of products leaves 16 bits, so
# that processors without VNNI can add them fast: see fsfast.engine.onnx_unsigned.
WEIGHT_LIMITS = {7: SAFE_WEIGHT, 8: 127}
_LEVELS = 255
# What moves pixels, and computes nothing: squares of pixels as channels, a border.
_MOVES = ("Reshape", "Transpose", "Pad")


@dataclass(frozen=True)
class Product:
    """A node that multiplies an activation with stored weights.

    Attributes:
        index: of the node in the graph.
        activation: name of its first input.
        weight: name of the initialiser.
        axis: of the weight's output channels.
        bias: name of the initialiser that is added, or "".
    """

    index: int
    activation: str
    weight: str
    axis: int
    bias: str


def products(model: onnx.ModelProto) -> list[Product]:
    """Return the products of a graph that may be quantised: all with stored weights but those of its input.

    A network's first layer sees pixels and costs little: it stays as it is.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    pixels = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type in _MOVES and node.input[0] in pixels:
            pixels.update(node.output)
    return [p for p in _products(model, stored) if p.activation not in pixels]


def _products(model: onnx.ModelProto, stored: set[str]) -> Iterator[Product]:
    for index, node in enumerate(model.graph.node):
        if node.op_type not in ("Gemm", "MatMul", "Conv"):
            continue
        activation, weight, *rest = node.input
        if weight not in stored or activation in stored or not set(rest) <= stored | {""}:
            continue
        bias = rest[0] if rest else ""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            yield Product(index, activation, weight, 0, bias)
        elif node.op_type == "MatMul":
            yield Product(index, activation, weight, 1, "")
        elif not attributes.get("transA") and {attributes.get(k, 1.0) for k in ("alpha", "beta")} == {1.0}:
            yield Product(index, activation, weight, 0 if attributes.get("transB") else 1, bias)


def quantise(
    model: onnx.ModelProto,
    values: Mapping[str, np.ndarray],
    ranges: Mapping[str, tuple[float, float]],
    weight_bits: int = 8,
) -> ExportedGraph:
    """Return the int8 graph.

    Args:
        model: the float32 graph; its external initialisers have the names of `values`.
        values: name of an external initialiser → its values.
        ranges: name of an activation → (low, high), what its 8 bits span; products of others stay as they are.
        weight_bits: of WEIGHT_LIMITS; stored in 8 bits either way.
    """
    return _Rewriter(model, values, ranges, WEIGHT_LIMITS[weight_bits]).rewritten()


class _Rewriter:
    def __init__(
        self,
        model: onnx.ModelProto,
        values: Mapping[str, np.ndarray],
        ranges: Mapping[str, tuple[float, float]],
        weight_limit: int,
    ):
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._values = values
        self._ranges = ranges
        self._weight_limit = weight_limit
        self._weights: dict[str, np.ndarray] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._scales: dict[str, float] = {}

    def rewritten(self) -> ExportedGraph:
        graph = self._model.graph
        chosen = {p.index: p for p in products(self._model) if p.activation in self._ranges}
        for index, node in enumerate(graph.node):
            if index in chosen:
                self._quantise(node, chosen[index])
            self._nodes.append(node)
        nodes = list(self._nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        self._store()
        return ExportedGraph(self._model, self._weights, {name: name for name in self._weights})

    def _quantise(self, node: onnx.NodeProto, product: Product) -> None:
        """Put quantised tensors in the place of a product's inputs."""
        if product.activation not in self._scales:
            self._activation(product.activation)
        scale = self._weight(product)
        node.input[0] = f"{product.activation}.dequantised"
        node.input[1] = f"{product.weight}.dequantised"
        if product.bias:
            node.input[2] = self._bias(node, product, scale)

    def _activation(self, name: str) -> None:
        low, high = self._ranges[name]
        # Zero must have a level of its own.
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max(high - low, 1e-8) / _LEVELS))
        zero = int(np.clip(round(-low / scale), 0, _LEVELS))
        self._scales[name] = scale
        graph = self._model.graph
        graph.initializer.append(helper.make_tensor(f"{name}.scale", TensorProto.FLOAT, [], [scale]))
        graph.initializer.append(helper.make_tensor(f"{name}.zero", TensorProto.UINT8, [], [zero]))
        parameters = [f"{name}.scale", f"{name}.zero"]
        steps = (
            ("QuantizeLinear", name, f"{name}.quantised"),
            ("DequantizeLinear", f"{name}.quantised", f"{name}.dequantised"),
        )
        self._nodes += [helper.make_node(op, [x, *parameters], [y], name=y) for op, x, y in steps]

    def _weight(self, product: Product) -> np.ndarray:
        """Store a weight in 8 bits, once; returns its scales."""
        name, axis = product.weight, product.axis
        value = self._values[name]
        others = tuple(i for i in range(value.ndim) if i != axis)
        largest = np.maximum(np.abs(value).max(others, keepdims=True), 1e-8)
        scale = (largest / self._weight_limit).astype(np.float32)
        if f"{name}.scale" not in self._weights:
            self._weights[f"{name}.int8"] = np.round(value / scale).astype(np.int8)
            self._weights[f"{name}.scale"] = scale.reshape(-1)
            self._dequantise(f"{name}.int8", f"{name}.scale", f"{name}.dequantised", axis)
        return scale.reshape(-1)

    def _bias(self, node: onnx.NodeProto, product: Product, weight_scale: np.ndarray) -> str:
        """Store a bias in 32 bits at the scale of the products' sum."""
        scale = (np.float32(self._scales[product.activation]) * weight_scale).astype(np.float32)
        value = np.round(self._values[product.bias] / scale.astype(np.float64))
        name = f"{node.output[0]}.bias"
        self._weights[f"{name}.int32"] = np.clip(value, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        self._weights[f"{name}.scale"] = scale
        self._dequantise(f"{name}.int32", f"{name}.scale", f"{name}.dequantised", 0)
        return f"{name}.dequantised"

    def _dequantise(self, integers: str, scale: str, output: str, axis: int) -> None:
        """Add the node that gives stored integers their scale."""
        count, dtype = len(self._weights[scale]), self._weights[integers].dtype
        # ONNX Runtime fuses a product only where the zero points are written out.
        zeros = f"zeros.{dtype}.{count}"
        self._weights[zeros] = np.zeros(count, dtype)
        inputs = [integers, scale, zeros]
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis))

    def _store(self) -> None:
        """Keep the initialisers that are still used; the large ones lie outside the graph."""
        graph = self._model.graph
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        for tensor in kept:
            if tensor.data_location == TensorProto.EXTERNAL:
                self._weights[tensor.name] = self._values[tensor.name]
        for name, value in self._weights.items():
            if name in self._values:
                continue
            tensor = graph.initializer.add()
            tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor.dims.extend(value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="length", value=str(value.nbytes))
