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
DTYPES = {
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
DATA_TYPES = {name: number for number, (name, _) in DTYPES.items()}
# More no network has, and products of sizes would take long.
MOST_AXES = 8
_PLAIN_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")

# How a field is written: wire types, and whether it may come more than once (protobuf would merge it silently).
NUMBER = ({VARINT}, False)
NUMBERS = ({VARINT, BYTES}, True)
FLOAT = ({FIXED32}, False)
FLOATS = ({FIXED32, BYTES}, True)
DOUBLES = ({FIXED64, BYTES}, True)
ONE = ({BYTES}, False)
MANY = ({BYTES}, True)
Message = dict[int, tuple[str, tuple[set[int], bool]]]

# Left out on purpose: training_info and functions (code beside the graph).
MODEL: Message = {
    1: ("ir_version", NUMBER),
    2: ("producer_name", ONE),
    3: ("producer_version", ONE),
    4: ("domain", ONE),
    5: ("model_version", NUMBER),
    6: ("doc_string", ONE),
    7: ("graph", ONE),
    8: ("opset_import", MANY),
    14: ("metadata_props", MANY),
}
OPSET: Message = {1: ("domain", ONE), 2: ("version", NUMBER)}
# Left out on purpose: sparse_initializer.
GRAPH: Message = {
    1: ("node", MANY),
    2: ("name", ONE),
    5: ("initializer", MANY),
    10: ("doc_string", ONE),
    11: ("input", MANY),
    12: ("output", MANY),
    13: ("value_info", MANY),
    14: ("quantization_annotation", MANY),
    16: ("metadata_props", MANY),
}
NODE: Message = {
    1: ("input", MANY),
    2: ("output", MANY),
    3: ("name", ONE),
    4: ("op_type", ONE),
    5: ("attribute", MANY),
    6: ("doc_string", ONE),
    7: ("domain", ONE),
    9: ("metadata_props", MANY),
}
# Left out on purpose: g and graphs (subgraphs), ref_attr_name (of functions), sparse tensors.
ATTRIBUTE: Message = {
    1: ("name", ONE),
    2: ("f", FLOAT),
    3: ("i", NUMBER),
    4: ("s", ONE),
    5: ("t", ONE),
    7: ("floats", FLOATS),
    8: ("ints", NUMBERS),
    9: ("strings", MANY),
    10: ("tensors", MANY),
    13: ("doc_string", ONE),
    20: ("type", NUMBER),
}
TENSOR: Message = {
    1: ("dims", NUMBERS),
    2: ("data_type", NUMBER),
    4: ("float_data", FLOATS),
    5: ("int32_data", NUMBERS),
    7: ("int64_data", NUMBERS),
    8: ("name", ONE),
    9: ("raw_data", ONE),
    10: ("double_data", DOUBLES),
    11: ("uint64_data", NUMBERS),
    12: ("doc_string", ONE),
    13: ("external_data", MANY),
    14: ("data_location", NUMBER),
    16: ("metadata_props", MANY),
}
_ENTRY: Message = {1: ("key", ONE), 2: ("value", ONE)}
INLINE_DATA = ("float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data")


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
    model = read(memoryview(graph), MODEL, "model")
    for opset in model.get("opset_import", []):
        _check_domain(text(read(opset, OPSET, "opset_import"), "domain"))
    if "graph" not in model:
        raise ValueError("the model has no graph")
    fields = read(model["graph"][0], GRAPH, "graph")
    for node in fields.get("node", []):
        _check_node(read(node, NODE, "node"))
    tensors = [read(tensor, TENSOR, "initialiser") for tensor in fields.get("initializer", [])]
    names = [text(tensor, "name") for tensor in tensors]
    if len(set(names)) != len(names):
        raise ValueError("two initialisers have the same name")
    return [_external(tensor) for tensor in tensors if is_external(tensor)]


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise ValueError(f"wanted ops of plain ONNX only, got the domain {domain!r}")


def _check_node(node: dict[str, list[Any]]) -> None:
    op = text(node, "op_type")
    _check_domain(text(node, "domain"))
    if op in RANDOM_OPS:
        raise ValueError(f"the op {op} is random; an engine must be a fixed function")
    for attribute in node.get("attribute", []):
        fields = read(attribute, ATTRIBUTE, f"attribute of {op!r}")
        for tensor in fields.get("t", []) + fields.get("tensors", []):
            if is_external(read(tensor, TENSOR, f"tensor of {op!r}")):
                raise ValueError(f"an attribute of {op!r} holds external data; only initialisers may")


def is_external(tensor: dict[str, list[Any]]) -> bool:
    """Whether a tensor's values lie in another file; raises ValueError."""
    location = tensor.get("data_location", [0])[0]
    if location not in (0, 1):
        raise ValueError(f"wanted data_location 0 or 1, got {location}")
    return location == 1 or "external_data" in tensor


def _external(tensor: dict[str, list[Any]]) -> ExternalTensor:
    name = text(tensor, "name")
    if tensor.get("data_location") != [1] or any(field in tensor for field in INLINE_DATA):
        raise ValueError(f"initialiser {name!r} is half external, half inside the graph")
    entries = [read(entry, _ENTRY, "external_data") for entry in tensor.get("external_data", [])]
    pairs = sorted((text(entry, "key"), text(entry, "value")) for entry in entries)
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
    if data_type not in DTYPES:
        raise ValueError(f"initialiser {name!r} has the unknown data type {data_type}")
    dtype, size = DTYPES[data_type]
    shape = tuple(numbers(tensor.get("dims", [])))
    if len(shape) > MOST_AXES:
        raise ValueError(f"initialiser {name!r} has {len(shape)} axes")
    if max(shape, default=0) >= 1 << 48 or int(length) != prod(shape) * size:
        raise ValueError(f"initialiser {name!r}: {length} bytes do not hold {dtype} {list(shape)}")
    return ExternalTensor(name, dtype, shape, int(offset), int(length), location)


def text(fields: dict[str, list[Any]], name: str) -> str:
    """Return a field that holds text, "" where it is left out; raises ValueError."""
    # UnicodeDecodeError is a ValueError.
    return str(fields[name][0], "utf-8") if name in fields else ""


def numbers(values: list[int | memoryview]) -> list[int]:
    """Return repeated numbers, whether they were written one by one or packed."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = varint(value, position)
            found.append(number)
    return found


def read(message: memoryview, known: Message, what: str) -> dict[str, list[Any]]:
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
