"""What a serialised ONNX graph may hold in an engine: a strict walk over the bytes, before any runtime sees them.

Field numbers are those of onnx.proto; the encoding is that of protobuf (https://protobuf.dev/programming-guides/encoding).
Whatever this file does not know is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from fsfast.engine.protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, varint

MAX_GRAPH_BYTES = (1 << 31) - 1
# Their outputs are random, so the network would not be a fixed function and no certificate would hold.
RANDOM_OPS = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_DOMAINS = ("", "ai.onnx")
# TensorProto.DataType → name and bytes per element.
_DTYPES = {
    1: ("float32", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    4: ("uint16", 2),
    5: ("int16", 2),
    6: ("int32", 4),
    7: ("int64", 8),
    9: ("bool", 1),
    10: ("float16", 2),
    11: ("float64", 8),
    12: ("uint32", 4),
    13: ("uint64", 8),
    16: ("bfloat16", 2),
}
# The other way round.
DATA_TYPES = {name: number for number, (name, _) in _DTYPES.items()}
_PLAIN_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")

# How a field is written: wire types, and whether it may come more than once (protobuf would merge it silently).
_NUMBER = ({VARINT}, False)
_NUMBERS = ({VARINT, BYTES}, True)
_FLOAT = ({FIXED32}, False)
_FLOATS = ({FIXED32, BYTES}, True)
_DOUBLES = ({FIXED64, BYTES}, True)
_ONE = ({BYTES}, False)
_MANY = ({BYTES}, True)
_Message = dict[int, tuple[str, tuple[set[int], bool]]]

# Left out on purpose: training_info and functions (code beside the graph).
_MODEL: _Message = {
    1: ("ir_version", _NUMBER),
    2: ("producer_name", _ONE),
    3: ("producer_version", _ONE),
    4: ("domain", _ONE),
    5: ("model_version", _NUMBER),
    6: ("doc_string", _ONE),
    7: ("graph", _ONE),
    8: ("opset_import", _MANY),
    14: ("metadata_props", _MANY),
}
_OPSET: _Message = {1: ("domain", _ONE), 2: ("version", _NUMBER)}
# Left out on purpose: sparse_initializer.
_GRAPH: _Message = {
    1: ("node", _MANY),
    2: ("name", _ONE),
    5: ("initializer", _MANY),
    10: ("doc_string", _ONE),
    11: ("input", _MANY),
    12: ("output", _MANY),
    13: ("value_info", _MANY),
    14: ("quantization_annotation", _MANY),
    16: ("metadata_props", _MANY),
}
_NODE: _Message = {
    1: ("input", _MANY),
    2: ("output", _MANY),
    3: ("name", _ONE),
    4: ("op_type", _ONE),
    5: ("attribute", _MANY),
    6: ("doc_string", _ONE),
    7: ("domain", _ONE),
    9: ("metadata_props", _MANY),
}
# Left out on purpose: g and graphs (subgraphs), ref_attr_name (of functions), sparse tensors.
_ATTRIBUTE: _Message = {
    1: ("name", _ONE),
    2: ("f", _FLOAT),
    3: ("i", _NUMBER),
    4: ("s", _ONE),
    5: ("t", _ONE),
    7: ("floats", _FLOATS),
    8: ("ints", _NUMBERS),
    9: ("strings", _MANY),
    10: ("tensors", _MANY),
    13: ("doc_string", _ONE),
    20: ("type", _NUMBER),
}
_TENSOR: _Message = {
    1: ("dims", _NUMBERS),
    2: ("data_type", _NUMBER),
    4: ("float_data", _FLOATS),
    5: ("int32_data", _NUMBERS),
    7: ("int64_data", _NUMBERS),
    8: ("name", _ONE),
    9: ("raw_data", _ONE),
    10: ("double_data", _DOUBLES),
    11: ("uint64_data", _NUMBERS),
    12: ("doc_string", _ONE),
    13: ("external_data", _MANY),
    14: ("data_location", _NUMBER),
    16: ("metadata_props", _MANY),
}
_ENTRY: _Message = {1: ("key", _ONE), 2: ("value", _ONE)}
_INLINE_DATA = ("float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class ExternalTensor:
    """An initialiser whose values lie in another file.

    Attributes:
        name: of the initialiser.
        dtype: NumPy's name, or "bfloat16".
        shape: dimensions.
        offset, length: place of the values in the file, bytes; the length fits dtype and shape.
        location: the file's name as the graph gives it; `check_graph` compares it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    location: str


def check_graph(graph: bytes, weights_file: str) -> None:
    """Refuse a graph that is more than a fixed function of its input and of one weights file.

    Args:
        graph: serialised ModelProto.
        weights_file: the only file that external initialisers may name.

    Raises:
        ValueError: as `external_tensors`, or an initialiser lies in another file.
    """
    for tensor in external_tensors(graph):
        if tensor.location != weights_file:
            raise ValueError(
                f"initialiser {tensor.name!r} points to weights outside {weights_file}: {tensor.location!r}"
            )


def external_tensors(graph: bytes) -> list[ExternalTensor]:
    """Return the initialisers of a graph whose values lie in another file, in the graph's order.

    Args:
        graph: serialised ModelProto.

    Raises:
        ValueError: the bytes are not a plain ONNX graph: malformed or with unknown fields; with subgraphs, local
            functions, sparse initialisers, random ops or ops of other domains; with external data elsewhere than
            in the graph's initialisers, or of another size than dtype and shape say.
    """
    if len(graph) > MAX_GRAPH_BYTES:
        raise ValueError(f"wanted at most {MAX_GRAPH_BYTES} bytes, got {len(graph)}")
    model = _read(memoryview(graph), _MODEL, "model")
    for opset in model.get("opset_import", []):
        _check_domain(_text(_read(opset, _OPSET, "opset_import"), "domain"))
    if "graph" not in model:
        raise ValueError("the model has no graph")
    fields = _read(model["graph"][0], _GRAPH, "graph")
    for node in fields.get("node", []):
        _check_node(_read(node, _NODE, "node"))
    tensors = [_read(tensor, _TENSOR, "initialiser") for tensor in fields.get("initializer", [])]
    names = [_text(tensor, "name") for tensor in tensors]
    if len(set(names)) != len(names):
        raise ValueError("two initialisers have the same name")
    return [_external(tensor) for tensor in tensors if _is_external(tensor)]


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise ValueError(f"wanted ops of plain ONNX only, got the domain {domain!r}")


def _check_node(node: dict[str, list[Any]]) -> None:
    op = _text(node, "op_type")
    _check_domain(_text(node, "domain"))
    if op in RANDOM_OPS:
        raise ValueError(f"the op {op} is random; an engine must be a fixed function")
    for attribute in node.get("attribute", []):
        fields = _read(attribute, _ATTRIBUTE, f"attribute of {op!r}")
        for tensor in fields.get("t", []) + fields.get("tensors", []):
            if _is_external(_read(tensor, _TENSOR, f"tensor of {op!r}")):
                raise ValueError(f"an attribute of {op!r} holds external data; only initialisers may")


def _is_external(tensor: dict[str, list[Any]]) -> bool:
    location = tensor.get("data_location", [0])[0]
    if location not in (0, 1):
        raise ValueError(f"wanted data_location 0 or 1, got {location}")
    return location == 1 or "external_data" in tensor


def _external(tensor: dict[str, list[Any]]) -> ExternalTensor:
    name = _text(tensor, "name")
    if tensor.get("data_location") != [1] or any(field in tensor for field in _INLINE_DATA):
        raise ValueError(f"initialiser {name!r} is half external, half inside the graph")
    entries = [_read(entry, _ENTRY, "external_data") for entry in tensor.get("external_data", [])]
    pairs = sorted((_text(entry, "key"), _text(entry, "value")) for entry in entries)
    if [key for key, _ in pairs] != ["length", "location", "offset"]:
        raise ValueError(
            f"initialiser {name!r}: wanted location, offset and length once each, got {[key for key, _ in pairs]}"
        )
    (_, length), (_, location), (_, offset) = pairs
    if not (_PLAIN_INTEGER.fullmatch(length) and _PLAIN_INTEGER.fullmatch(offset)):
        raise ValueError(
            f"initialiser {name!r}: wanted integers, got offset {offset!r} and length {length!r}"
        )
    data_type = tensor.get("data_type", [0])[0]
    if data_type not in _DTYPES:
        raise ValueError(f"initialiser {name!r} has the unknown data type {data_type}")
    dtype, size = _DTYPES[data_type]
    shape = tuple(_numbers(tensor.get("dims", [])))
    if max(shape, default=0) >= 1 << 48 or int(length) != prod(shape) * size:
        raise ValueError(f"initialiser {name!r}: {length} bytes do not hold {dtype} {list(shape)}")
    return ExternalTensor(name, dtype, shape, int(offset), int(length), location)


def _text(fields: dict[str, list[Any]], name: str) -> str:
    # UnicodeDecodeError is a ValueError.
    return str(fields[name][0], "utf-8") if name in fields else ""


def _numbers(values: list[int | memoryview]) -> list[int]:
    """Return repeated numbers, whether they were written one by one or packed."""
    numbers = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = varint(value, position)
            numbers.append(number)
    return numbers


def _read(message: memoryview, known: _Message, what: str) -> dict[str, list[Any]]:
    """Return a message's fields, name → values: int for a varint, memoryview for everything else."""
    found: dict[str, list[Any]] = {}

    def allow(index: int, wire: int) -> None:
        if index not in known:
            raise ValueError(f"field {index} of {what} is not allowed in an engine's graph")
        name, (wires, repeated) = known[index]
        if wire not in wires or (name in found and not repeated):
            raise ValueError(f"{name} of {what} is malformed")

    for field in fields(message, allow):
        found.setdefault(known[field.index][0], []).append(field.value)
    return found
