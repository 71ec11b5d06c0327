"""The same 8-bit graph with unsigned weights, for processors that cannot add signed products of 8 bits exactly.

x86 processors without VNNI multiply uint8 activations with int8 weights and add pairs of products in 16 bits, which
saturate beyond ±32,767: 2 · 255 · 127 does. Products of two unsigned numbers go another way there, through 32 bits.
DequantizeLinear subtracts the zero point, so adding 128 to weights and zero points alike changes no number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fsfast.engine.onnx_bytes import DATA_TYPES, external_tensors
from fsfast.engine.protobuf import fields, message, number

# Weights up to here are safe as they are: 2 · 255 · 64 = 32,640.
SAFE_WEIGHT = 64
_SHIFT = 128
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALISER = 7, 1, 5
_NODE_INPUT, _NODE_OP = 1, 4
_TENSOR_TYPE, _TENSOR_NAME = 2, 8


def has_8_bit_products(graph: bytes) -> bool:
    """Return whether a graph stores weights in 8 bits with a sign, in its file of weights.

    Raises:
        ValueError: as `fsfast.engine.onnx_bytes.external_tensors`.
    """
    return any(tensor.dtype == "int8" for tensor in external_tensors(graph))


def may_saturate(arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether a pair of products with these weights can leave 16 bits.

    Args:
        arrays: name of an initialiser → its values.
    """
    return any(
        array.dtype == np.int8 and array.size > 0 and max(int(array.max()), -int(array.min())) > SAFE_WEIGHT
        for array in arrays.values()
    )


def with_unsigned_weights(
    graph: bytes, arrays: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the graph and its stored arrays with uint8 in the place of int8.

    Args:
        graph: serialised ModelProto.
        arrays: name of an external initialiser → its values; those that are not int8 are handed on.

    Raises:
        ValueError: an int8 initialiser is more than a weight or a zero point of DequantizeLinear, or only one of the
            two lies outside of the graph.
    """
    signed = {name for name, array in arrays.items() if array.dtype == np.int8}
    parts = []
    for field in fields(memoryview(graph)):
        inner = field.index == _MODEL_GRAPH
        parts.append(message(field.index, _unsigned(field.content, signed)) if inner else bytes(field.whole))
    shifted = {name: (arrays[name].astype(np.int16) + _SHIFT).astype(np.uint8) for name in signed}
    return b"".join(parts), {**arrays, **shifted}


def _unsigned(graph: memoryview, signed: set[str]) -> bytes:
    parts = []
    for field in fields(graph):
        if field.index == _GRAPH_NODE:
            _check_node(field.content, signed)
        if field.index == _GRAPH_INITIALISER and _name(field.content) in signed:
            parts.append(message(field.index, _retyped(field.content)))
        else:
            parts.append(bytes(field.whole))
    return b"".join(parts)


def _check_node(node: memoryview, signed: set[str]) -> None:
    """Raise unless the node reads int8 initialisers as DequantizeLinear does: weight and zero point, or neither."""
    inputs = _texts(node, _NODE_INPUT)
    read = [place for place, name in enumerate(inputs) if name in signed]
    op = "".join(_texts(node, _NODE_OP)[:1])
    if read and (op, read) != ("DequantizeLinear", [0, 2]):
        raise ValueError(
            f"{op} reads the 8-bit initialiser {inputs[read[0]]!r}; wanted weight and zero point of "
            "DequantizeLinear only"
        )


def _name(tensor: memoryview) -> str:
    return "".join(_texts(tensor, _TENSOR_NAME)[:1])


def _texts(content: memoryview, index: int) -> list[str]:
    return [str(field.content, "utf-8") for field in fields(content) if field.index == index]


def _retyped(tensor: memoryview) -> bytes:
    return b"".join(
        number(field.index, DATA_TYPES["uint8"]) if field.index == _TENSOR_TYPE else bytes(field.whole)
        for field in fields(tensor)
    )
