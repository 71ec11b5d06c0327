"""A torch module becomes an ONNX graph whose weights live outside it, under the module's own names."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import opset21 as op

from fsfast.errors import brief

# Smaller constants (shapes, epsilons) stay inside the graph, where a reader finds them.
_INLINE_BYTES = 256


@dataclass(frozen=True)
class ExportedGraph:
    """One stage.

    Attributes:
        model: the graph; its large initialisers are empty, `weights` has their values.
        weights: state-dict name (or the graph's own, for constants of the export) → array; those of the state dict
            lie in the module's memory.
        source: initialiser name → key in `weights`.
    """

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]
    source: dict[str, str]


def _attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale=None,
    enable_gqa: bool = False,
):  # type: ignore[no-untyped-def]
    """Scaled dot-product attention as five nodes; the exporter's own translation needs fourteen at opset 21."""
    if attn_mask is not None or is_causal or enable_gqa or scale is not None:
        raise ValueError("the export of attention knows no mask, no grouped heads and no scale of its own")
    factor = op.CastLike(op.Constant(value_float=float(query.shape[-1]) ** -0.5), query)
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


_TRANSLATIONS = {torch.ops.aten.scaled_dot_product_attention.default: _attention}


def export_graph(
    module: torch.nn.Module, example: torch.Tensor, input_name: str, output_name: str, opset: int
) -> ExportedGraph:
    """Export `module` with a dynamic batch axis "M".

    Args:
        module: in evaluation mode; one tensor in, one tensor out.
        example: [2, …] float32 input.
        input_name, output_name: tensor names of the graph.
        opset: ONNX operator set.
    """
    batch = torch.export.Dim("M", min=1, max=65536)
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: batch},),
            custom_translation_table=_TRANSLATIONS,
            verbose=False,
        )
    state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    weights, source = _externalise(program.model.graph, state)
    model = onnx_ir.to_proto(program.model)
    _strip(model)
    _check(model, source)
    return ExportedGraph(model, weights, source)


def export_file(module: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Export a module of anybody's as an ONNX file, as torch writes it, with a dynamic batch axis.

    Args:
        module: in evaluation mode; one tensor in, one tensor out.
        example: [2, …] float32 input.
        path: of the file; large weights go beside it.

    Raises:
        ValueError: torch cannot export the module.
    """
    try:
        with _quiet():
            batch = torch.export.Dim("M", min=1, max=65536)
            program = torch.onnx.export(
                module, (example,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
            )
            program.save(path, external_data=True)
    # The exporter wraps what the module raises, at length.
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"torch cannot export {type(module).__name__}: {brief(cause)}") from None


@contextlib.contextmanager
def _quiet():
    """Silence the exporter's progress and its notes about optional packages."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and local paths; keep what a runtime needs."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "fsfast", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    for item in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        raise ValueError(f"the exporter left a local function ({function.name}) in the graph")


def _externalise(
    graph: onnx_ir.Graph, state: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tie every initialiser to a tensor of the state dict; large constants that are none are stored beside it.

    The exporter merges initialisers with the same content, so a name may be missing in the graph; never here.
    Their values leave the graph before it is serialised, so that no copy of them is made.
    """
    weights = dict(state)
    source: dict[str, str] = {}
    for name, initializer in graph.initializers.items():
        tensor = initializer.const_value
        if tensor is None:
            raise ValueError(f"the exporter left the initialiser {name} without a value")
        if name in state:
            if not np.array_equal(tensor.numpy(), state[name]):
                raise ValueError(f"the exporter changed the values of {name}")
            source[name] = name
        elif tensor.nbytes > _INLINE_BYTES:
            source[name] = f"onnx.{name}"
            weights[source[name]] = tensor.numpy()
        else:
            continue
        initializer.const_value = onnx_ir.ExternalTensor(
            "weights", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
        )
    return weights, source


def _check(model: onnx.ModelProto, source: dict[str, str]) -> None:
    """Run ONNX's checker; weights become inputs for it, because their file is not written yet."""
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    del checked.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.name in source:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            checked.graph.input.append(value)
        else:
            checked.graph.initializer.append(tensor)
    onnx.checker.check_model(checked)
