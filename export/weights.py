"""One safetensors file holds the weights of all stages; the ONNX graphs point into it."""

from __future__ import annotations

import json

import numpy as np
import onnx
from safetensors.numpy import save

from export.graph import ExportedGraph


def pack_weights(graphs: dict[str, ExportedGraph]) -> bytes:
    """Return the safetensors file of all stages' weights, keys "<stage>.<state-dict name>"."""
    tensors = {
        f"{stage}.{key}": np.ascontiguousarray(value)
        for stage, graph in graphs.items()
        for key, value in graph.weights.items()
    }
    return save(tensors, {"format": "fsfast-weights"})


def point_into(graph: ExportedGraph, stage: str, weights: bytes, file: str) -> bytes:
    """Return the serialised graph with its external data pointing into the weights file.

    Args:
        graph: the stage.
        stage: its name, the prefix of its keys.
        weights: the safetensors file's content.
        file: its name.
    """
    header_bytes = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + header_bytes])
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.name not in graph.source:
            continue
        first, end = header[f"{stage}.{graph.source[tensor.name]}"]["data_offsets"]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        place = {"location": file, "offset": 8 + header_bytes + first, "length": end - first}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString(deterministic=True)
