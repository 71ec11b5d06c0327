"""Weights that are stored in half the bytes: rounded to float16 once, and computed with as float32.

Every back end computes the float32 function of the rounded weights: a graph casts what it reads from the file.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from fsfast.engine.onnx_arrays import stored_arrays

from .graph import ExportedGraph
from .weights import in_memory

_STORED = "/float16"


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round the weights of a module to float16, in place.

    Raises:
        ValueError: one is too large for float16.
    """
    for name, weight in module.state_dict().items():
        if weight.dtype != torch.float32:
            continue
        rounded = weight.half()
        if not rounded.isfinite().all():
            raise ValueError(
                f"wanted weights of at most {torch.finfo(torch.float16).max:g} to store them as float16, got "
                f"{weight.abs().max():g} in {name}; store float32"
            )
        weight.copy_(rounded)


def stored_as_float16(graph: ExportedGraph, names: Collection[str]) -> ExportedGraph:
    """Return the graph of a module after `round_weights`, whose weights are stored as float16.

    Args:
        graph: float32.
        names: of the module's weights; the export's own constants stay.
    """
    halves = {name for name in names if graph.weights[name].dtype == np.float32}
    model, source, casts = onnx.ModelProto(), {}, []
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.name not in graph.source:
            continue
        weight, name = graph.source[tensor.name], tensor.name
        if weight in halves:
            tensor.name, tensor.data_type = name + _STORED, TensorProto.FLOAT16
            (length,) = (entry for entry in tensor.external_data if entry.key == "length")
            length.value = str(int(length.value) // 2)
            casts.append(helper.make_node("Cast", [tensor.name], [name], name=name, to=TensorProto.FLOAT))
        source[tensor.name] = weight
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    weights = {k: v.astype(np.float16) if k in halves else v for k, v in graph.weights.items()}
    return ExportedGraph(model, weights, source)


def widened(graph: bytes, weights: bytearray) -> tuple[bytes, bytearray]:
    """Return a graph that reads float32 from its file where it reads float16 and casts it, and the file's content.

    Args:
        graph: serialised ModelProto.
        weights: content of the file that its external data points into.
    """
    model, arrays = onnx.load_model_from_string(graph), stored_arrays(graph, weights)
    halves = {name for name, array in arrays.items() if array.dtype == np.float16}
    if not halves:
        return graph, weights
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in halves]
    names = {node.input[0]: node.output[0] for node in casts}
    for node in casts:
        model.graph.node.remove(node)
    values = {
        names.get(name, name): array.astype(np.float32) if name in names else array
        for name, array in arrays.items()
    }
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.name, tensor.data_type = names[tensor.name], TensorProto.FLOAT
            (length,) = (entry for entry in tensor.external_data if entry.key == "length")
            length.value = str(values[tensor.name].nbytes)
    return in_memory(ExportedGraph(model, values, {name: name for name in values}))
