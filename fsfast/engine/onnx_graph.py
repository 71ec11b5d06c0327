"""A graph as `fsfast export` writes it, and nothing else: every byte is accounted for before any runtime sees it.

`fsfast.engine.onnx_bytes` reads ONNX; here stands what an engine's graph must be beyond that: its header, empty
descriptions, one input and one output, operators of a list (`fsfast.engine.operators`) that cannot fail, draw random
numbers or ask for more memory and work than a network needs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fsfast.engine import onnx_bytes
from fsfast.engine.onnx_bytes import DTYPES, external_tensors, numbers, read, text
from fsfast.errors import brief

# The operator set of engines.
OPSET = 21
MAX_GRAPH_BYTES, MAX_NODES = 64 << 20, 50_000
# What the export writes: ir_version, then the producer. Libraries take bytes for other formats by what stands in the
# first ones ("ORTM" or "TFL3" at 4, "<" at 0): these leave no room for that.
_HEADER = b"\x12\x06fsfast"
_VALUE_INFO: onnx_bytes.Message = {
    1: ("name", onnx_bytes.ONE),
    2: ("type", onnx_bytes.ONE),
    3: ("doc_string", onnx_bytes.ONE),
}
_TYPE: onnx_bytes.Message = {1: ("tensor_type", onnx_bytes.ONE)}
_TENSOR_TYPE: onnx_bytes.Message = {1: ("elem_type", onnx_bytes.NUMBER), 2: ("shape", onnx_bytes.ONE)}
_SHAPE: onnx_bytes.Message = {1: ("dim", onnx_bytes.MANY)}
_DIMENSION: onnx_bytes.Message = {1: ("dim_value", onnx_bytes.NUMBER), 2: ("dim_param", onnx_bytes.ONE)}
# Fields that describe, and change nothing that is computed: the export leaves them out, or empty.
_DESCRIPTIONS = ("producer_version", "domain", "model_version", "doc_string", "metadata_props")
# Of AttributeProto: number of the type → the field that holds the value.
_ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
# Larger arrays inside a graph are no sizes.
_KNOWN = 1 << 12
# Types whose values are read where they are few, and how they are written.
_READ = {"int64": "<i8", "float32": "<f4"}
# Where typed values of a type stand; those of all others stand in int32_data.
_FIELDS = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
_FIELDS |= {"uint32": "uint64_data", "uint64": "uint64_data"}


@dataclass(frozen=True)
class Constant:
    """A tensor whose values are in the graph or in the file of weights.

    Attributes:
        dtype: NumPy's name, or "bfloat16".
        shape: its dimensions.
        values: where they are few and inside the graph, as int64 or float64; None for everything else.
    """

    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: its operator.
        inputs, outputs: names of tensors; "" for one that is left out.
        attributes: name → number, text, list of numbers, or Constant.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """What a graph computes with.

    Attributes:
        nodes: in their order.
        constants: name → initialiser.
        input, output: (name, dtype, shape without the rows).
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    input: tuple[str, str, tuple[int, ...]]
    output: tuple[str, str, tuple[int, ...]]


def parse_graph(graph: bytes) -> Graph:
    """Return what a graph computes with.

    Args:
        graph: serialised ModelProto.

    Raises:
        ValueError: as `fsfast.engine.onnx_bytes.external_tensors`, or it holds what the export does not write.
    """
    if len(graph) > MAX_GRAPH_BYTES:
        raise ValueError(f"wanted a graph of at most {MAX_GRAPH_BYTES} bytes, got {len(graph)}")
    external_tensors(graph)
    model = read(memoryview(graph), onnx_bytes.MODEL, "model")
    if graph[2 : 2 + len(_HEADER)] != _HEADER or graph[0] != 0x08:
        raise ValueError("it was not written by `fsfast export`: wanted ir_version, then the producer fsfast")
    _check_empty(model, "model")
    opsets = [read(opset, onnx_bytes.OPSET, "opset_import") for opset in model.get("opset_import", [])]
    if [opset.get("version") for opset in opsets] != [[OPSET]]:
        raise ValueError(f"wanted operator set {OPSET}, in which operators mean what they are taken for here")
    fields = read(model["graph"][0], onnx_bytes.GRAPH, "graph")
    for unwanted in ("value_info", "quantization_annotation"):
        if unwanted in fields:
            raise ValueError(f"{unwanted} is not written by `fsfast export`")
    _check_empty(fields, "graph")
    if len(fields.get("node", [])) > MAX_NODES:
        raise ValueError(f"wanted at most {MAX_NODES} nodes, got {len(fields['node'])}")
    constants = {}
    for tensor in fields.get("initializer", []):
        parsed = read(tensor, onnx_bytes.TENSOR, "initialiser")
        constants[text(parsed, "name")] = _constant(parsed)
    nodes = tuple(_node(read(node, onnx_bytes.NODE, "node")) for node in fields.get("node", []))
    ends = [fields.get(side, []) for side in ("input", "output")]
    if [len(end) for end in ends] != [1, 1]:
        raise ValueError(f"wanted one input and one output, got {len(ends[0])} and {len(ends[1])}")
    return Graph(nodes, constants, *(_end(end[0]) for end in ends))


def _check_empty(fields: dict[str, list[Any]], what: str) -> None:
    """Refuse descriptions: bytes in which something else could be hidden; and a name that is no text.

    Names are decoded as libraries will: one that calls back with a bad one, for its log, ends in errors of its own.
    """
    text(fields, "name")
    for name in _DESCRIPTIONS:
        if any(value for value in fields.get(name, [])):
            raise ValueError(f"{name} of {what} is not empty; `fsfast export` leaves it empty")


def _end(value_info: memoryview) -> tuple[str, str, tuple[int, ...]]:
    """Return name, type and shape without the rows of the graph's input or output."""
    fields = read(value_info, _VALUE_INFO, "input or output")
    _check_empty(fields, "input or output")
    name = text(fields, "name")
    kind = _inner(fields, "type", _TYPE)
    tensor = _inner(kind, "tensor_type", _TENSOR_TYPE)
    element = tensor.get("elem_type", [0])[0]
    if element not in DTYPES:
        raise ValueError(f"{name!r} has the unknown data type {element}")
    shape = []
    for dimension in _inner(tensor, "shape", _SHAPE).get("dim", []):
        fields = read(dimension, _DIMENSION, "dimension")
        text(fields, "dim_param")
        shape.append(int(fields["dim_value"][0]) if "dim_value" in fields else 0)
    if not 1 <= len(shape) <= onnx_bytes.MOST_AXES or any(not 0 < size < 1 << 31 for size in shape[1:]):
        raise ValueError(f"wanted {name!r} [M, …], got {brief(shape)}")
    return name, DTYPES[element][0], tuple(shape[1:])


def _inner(fields: dict[str, list[Any]], name: str, known: onnx_bytes.Message) -> dict[str, list[Any]]:
    if name not in fields:
        raise ValueError(f"an input or output has no {name}")
    return read(fields[name][0], known, name)


def _node(fields: dict[str, list[Any]]) -> Node:
    _check_empty({k: v for k, v in fields.items() if k != "domain"}, "node")
    op = text(fields, "op_type")
    attributes = {}
    for attribute in fields.get("attribute", []):
        parsed = read(attribute, onnx_bytes.ATTRIBUTE, f"attribute of {op!r}")
        _check_empty(parsed, f"attribute of {op!r}")
        name = text(parsed, "name")
        if name in attributes:
            raise ValueError(f"{op} has two attributes {name!r}")
        attributes[name] = _attribute(op, name, parsed)
    inputs, outputs = (tuple(str(n, "utf-8") for n in fields.get(side, [])) for side in ("input", "output"))
    return Node(op, inputs, outputs, attributes)


def _attribute(op: str, name: str, parsed: dict[str, list[Any]]) -> Any:
    held = _ATTRIBUTE_FIELDS.get(parsed.get("type", [0])[0])
    if held is None or not parsed.keys() - {"doc_string"} <= {"name", "type", held}:
        raise ValueError(f"attribute {name!r} of {op} is not of one plain type")
    values = parsed.get(held, [])
    if held == "ints":
        return [_signed(value) for value in numbers(values)]
    if held == "floats":
        content = b"".join(values)
        if len(content) % 4:
            raise ValueError(f"attribute {name!r} of {op} is malformed")
        return [x for (x,) in struct.iter_unpack("<f", content)]
    if not values:
        return "" if held == "s" else 0
    if held == "i":
        return _signed(values[0])
    if held == "f":
        return struct.unpack("<f", values[0])[0]
    if held == "t":
        return _constant(read(values[0], onnx_bytes.TENSOR, f"tensor of {op!r}"))
    return str(values[0], "utf-8")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _constant(tensor: dict[str, list[Any]]) -> Constant:
    _check_empty(tensor, "tensor")
    kind = tensor.get("data_type", [0])[0]
    if kind not in DTYPES:
        raise ValueError(f"tensor {text(tensor, 'name')!r} has the unknown data type {kind}")
    dtype, size = DTYPES[kind]
    shape = tuple(_signed(d) for d in numbers(tensor.get("dims", [])))
    if len(shape) > onnx_bytes.MOST_AXES or any(not 0 < d < 1 << 31 for d in shape):
        raise ValueError(f"tensor {text(tensor, 'name')!r} has the shape {brief(list(shape))}")
    count = prod(shape)
    # Libraries differ in which one they read where there are several.
    held = [field for field in onnx_bytes.INLINE_DATA if field in tensor]
    if "data_location" in tensor and tensor["data_location"] == [1]:
        return Constant(dtype, shape)
    if held not in (["raw_data"], [_FIELDS.get(dtype, "int32_data")]):
        raise ValueError(f"tensor {text(tensor, 'name')!r} holds {held or 'nothing'}, its type is {dtype}")
    if held == ["raw_data"] and len(tensor["raw_data"][0]) != count * size:
        raise ValueError(f"tensor {text(tensor, 'name')!r}: wanted {count * size} bytes")
    if dtype not in _READ or count > _KNOWN:
        return Constant(dtype, shape)
    return Constant(dtype, shape, _numbers(tensor, dtype, shape))


def _numbers(tensor: dict[str, list[Any]], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of a small tensor that lies in the graph: int64, or float64 of float32."""
    if "raw_data" in tensor:
        values = np.frombuffer(tensor["raw_data"][0], _READ[dtype])
    elif dtype == "float32":
        values = np.frombuffer(b"".join(tensor["float_data"]), "<f4")
    else:
        values = np.array([_signed(v) for v in numbers(tensor["int64_data"])], np.int64)
    values = values.astype(np.float64 if dtype == "float32" else np.int64)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"tensor {text(tensor, 'name')!r}: {values.size} values do not fill {list(shape)}")
    return values.reshape(shape)
