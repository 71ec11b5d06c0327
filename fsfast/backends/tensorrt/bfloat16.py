"""A float32 graph whose operations compute in bfloat16: weights, constants and inputs are cast, outputs cast back.

A strongly typed plan computes in what the graph says. Normalisations keep their sums in float32 (`stash_type`), as the
accumulators of products are. Input, output and the weights file stay as they are: a plan is used like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsfast.errors import BackendUnavailable

if TYPE_CHECKING:
    import onnx

# Operator → inputs that are float32 whatever it computes in.
_KEPT = {"Resize": {1, 2}}
_END = "/bfloat16"


def in_bfloat16(graph: bytes) -> bytes:
    """Return the graph in bfloat16.

    Args:
        graph: serialised ModelProto that `Engine.graph` let pass, in float32.

    Raises:
        BackendUnavailable: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise BackendUnavailable(
            "bfloat16 plans want the package onnx, which is not installed: pip install onnx"
        ) from None
    return narrowed(onnx.load_model_from_string(graph), onnx.TensorProto.BFLOAT16).SerializeToString()


def narrowed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Let a graph's operations compute in another type, in place.

    Args:
        model: of float32.
        kind: of TensorProto.DataType: BFLOAT16, or FLOAT16.

    Returns:
        the model.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    wide = [item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT]
    wide += [item.name for item in graph.input if item.type.tensor_type.elem_type == TensorProto.FLOAT]
    casts = [helper.make_node("Cast", [name], [name + _END], f"{name}{_END}", to=kind) for name in wide]
    narrow = {name: name + _END for name in wide}
    outputs = {item.name for item in graph.output if item.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes = []
    for node in graph.node:
        kept = _KEPT.get(node.op_type, set())
        for i, name in enumerate(node.input):
            if name in narrow and i not in kept:
                node.input[i] = narrow[name]
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = kind
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in outputs:
                node.output[i] = narrow[name] = name + _END
    back = [
        helper.make_node("Cast", [name + _END], [name], f"{name}/float32", to=TensorProto.FLOAT)
        for name in sorted(outputs)
    ]
    nodes = [*casts, *nodes, *back]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model
