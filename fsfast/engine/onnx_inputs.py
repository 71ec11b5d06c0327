"""A graph whose stored weights become inputs, for back ends that cannot take weights from memory by their names.

OpenVINO reads external data from paths only. With the initialisers as inputs it needs no path, and each input is
then replaced by a constant that holds verified bytes.
"""

from __future__ import annotations

from fsfast.engine.onnx_bytes import DATA_TYPES, ExternalTensor, external_tensors
from fsfast.engine.protobuf import fields, message, number

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALISER, _GRAPH_INPUT = 7, 5, 11
_NAME, _TYPE, _TENSOR_TYPE, _ELEMENT, _SHAPE, _DIMENSION, _VALUE = 1, 2, 1, 1, 2, 1, 1
_TENSOR_LOCATION = 14


def weights_as_inputs(graph: bytes) -> tuple[bytes, list[ExternalTensor]]:
    """Return the graph with an input in the place of every external initialiser, and these initialisers.

    Args:
        graph: serialised ModelProto.

    Raises:
        ValueError: as `fsfast.engine.onnx_bytes.external_tensors`.
    """
    tensors = external_tensors(graph)
    parts = []
    for field in fields(memoryview(graph)):
        inner = field.index == _MODEL_GRAPH
        parts.append(
            message(field.index, _rewritten(field.content, tensors)) if inner else bytes(field.whole)
        )
    return b"".join(parts), tensors


def _rewritten(graph: memoryview, tensors: list[ExternalTensor]) -> bytes:
    kept = [
        bytes(field.whole)
        for field in fields(graph)
        if field.index != _GRAPH_INITIALISER or not _is_external(field.content)
    ]
    return b"".join([*kept, *(message(_GRAPH_INPUT, _value_info(tensor)) for tensor in tensors)])


def _is_external(tensor: memoryview) -> bool:
    return any(field.index == _TENSOR_LOCATION and field.value == 1 for field in fields(tensor))


def _value_info(tensor: ExternalTensor) -> bytes:
    shape = b"".join(message(_DIMENSION, number(_VALUE, size)) for size in tensor.shape)
    kind = number(_ELEMENT, DATA_TYPES[tensor.dtype]) + message(_SHAPE, shape)
    return message(_NAME, tensor.name.encode()) + message(_TYPE, message(_TENSOR_TYPE, kind))
