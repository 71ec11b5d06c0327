"""A graph whose stored weights become inputs, for back ends that cannot take weights from memory by their names.

OpenVINO reads external data from paths only. With the initialisers as inputs it needs no path, and each input is
then replaced by a constant that holds verified bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from fsfast.engine.onnx_bytes import DATA_TYPES, ExternalTensor, external_tensors, varint

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALISER, _GRAPH_INPUT = 7, 5, 11
_NAME, _TYPE, _TENSOR_TYPE, _ELEMENT, _SHAPE, _DIMENSION, _VALUE = 1, 2, 1, 1, 2, 1, 1
_TENSOR_LOCATION = 14
_VARINT, _BYTES = 0, 2


def weights_as_inputs(graph: bytes) -> tuple[bytes, list[ExternalTensor]]:
    """Return the graph with an input in the place of every external initialiser, and these initialisers.

    Args:
        graph: serialised ModelProto.

    Raises:
        ValueError: as `fsfast.engine.onnx_bytes.external_tensors`.
    """
    tensors = external_tensors(graph)
    parts = []
    for index, content, whole in fields(memoryview(graph)):
        parts.append(message(index, _rewritten(content, tensors)) if index == _MODEL_GRAPH else whole)
    return b"".join(parts), tensors


def _rewritten(graph: memoryview, tensors: list[ExternalTensor]) -> bytes:
    kept = [
        bytes(whole)
        for index, content, whole in fields(graph)
        if index != _GRAPH_INITIALISER or not _is_external(content)
    ]
    return b"".join([*kept, *(message(_GRAPH_INPUT, _value_info(tensor)) for tensor in tensors)])


def _is_external(tensor: memoryview) -> bool:
    return any(index == _TENSOR_LOCATION and bytes(whole[-1:]) == b"\1" for index, _, whole in fields(tensor))


def _value_info(tensor: ExternalTensor) -> bytes:
    shape = b"".join(message(_DIMENSION, number(_VALUE, size)) for size in tensor.shape)
    kind = number(_ELEMENT, DATA_TYPES[tensor.dtype]) + message(_SHAPE, shape)
    return message(_NAME, tensor.name.encode()) + message(_TYPE, message(_TENSOR_TYPE, kind))


def fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield number, content and the whole bytes of each field; `external_tensors` has checked their form."""
    position = 0
    while position < len(content):
        start = position
        key, position = varint(content, position)
        wire = key & 7
        if wire == _VARINT:
            _, end = varint(content, position)
        elif wire == _BYTES:
            length, position = varint(content, position)
            end = position + length
        else:
            end = position + (8 if wire == 1 else 4)
        yield key >> 3, content[position:end], content[start:end]
        position = end


def message(index: int, content: bytes) -> bytes:
    """Return a field that holds bytes: a string or another message."""
    return _varint(index << 3 | _BYTES) + _varint(len(content)) + content


def number(index: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return _varint(index << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
