"""What an ONNX node makes of arrays that are known: sizes, places, and constants that do not depend on the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fsfast.engine.onnx_graph import OPSET

# Elements of one result: far more than the positions and masks that networks compute for themselves.
_MOST = 1 << 26
_BROADCAST = {
    "Add",
    "And",
    "BitShift",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
}
_BROADCAST |= {"Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"}
# These make no more than they are given.
_NO_MORE = {
    "Abs",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "Cos",
    "CumSum",
    "Erf",
    "Exp",
    "Flatten",
    "Floor",
}
_NO_MORE |= {
    "Identity",
    "IsInf",
    "IsNaN",
    "Log",
    "Neg",
    "Not",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
}
_NO_MORE |= {
    "ReduceProd",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Round",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
}
_NO_MORE |= {
    "Size",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Tanh",
    "Transpose",
    "Trilu",
    "Unsqueeze",
}


def _gathered(x: np.ndarray, places: np.ndarray, axis: int = 0) -> int:
    return places.size * (x.size // max(x.shape[axis], 1) if x.ndim else 1)


def _ranged(start: np.ndarray, limit: np.ndarray, step: np.ndarray) -> int:
    return max(0, int((limit - start) / step) + 1)


# Operator → the number of elements that it will make, from its inputs.
_GROWS: Mapping[str, Callable[..., int]] = {
    "ConstantOfShape": lambda shape: prod(map(int, shape)),
    "Expand": lambda x, shape: prod(map(int, shape)) * max(x.size, 1),
    "Gather": _gathered,
    "GatherND": lambda x, places: places.size * max(x.size, 1),
    "MatMul": lambda a, b: a.size * b.shape[-1],
    "Range": _ranged,
    "Tile": lambda x, counts: x.size * prod(map(int, counts)),
}


def folded(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Compute a node.

    Args:
        node: of operators of plain ONNX, at the operator set of engines.
        inputs: one array each, None for one that is left out.

    Raises:
        ValueError: the operator is none that sizes and constants need, the inputs are not for it, or it would make
            too much.
    """
    given = [x for x in inputs if x is not None]
    if node.op_type == "Constant":
        return [_constant(node)]
    try:
        size = _size(node, given)
        if size > _MOST:
            raise ValueError(f"it would make a constant of {size} elements, at most {_MOST} are computed")
        return _run(node, inputs)
    # What the reference implementation raises is its own, and of every kind.
    except Exception as error:
        raise ValueError(str(error)) from None


def _size(node: onnx.NodeProto, given: Sequence[np.ndarray]) -> int:
    op = node.op_type
    if op in _BROADCAST:
        return prod(np.broadcast_shapes(*(x.shape for x in given)))
    if op in _NO_MORE:
        return sum(x.size for x in given)
    if op not in _GROWS:
        raise ValueError(
            f"{op} of constants is not computed at export; fold constants first (onnxsim, onnxslim)"
        )
    axis = {a.name: a.i for a in node.attribute if a.name == "axis" and op == "Gather"}
    return _GROWS[op](*given, **axis)


def _constant(node: onnx.NodeProto) -> np.ndarray:
    (attribute,) = node.attribute
    value: Any = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return onnx.numpy_helper.to_array(value)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    raise ValueError(f"a constant of the kind {attribute.name}")


def _run(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    names = [name if x is not None else "" for name, x in zip(node.input, inputs, strict=True)]
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    one = helper.make_node(node.op_type, names, list(node.output))
    one.attribute.extend(node.attribute)
    ends = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    model = helper.make_model(
        helper.make_graph([one], "one", ends, outputs), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(x) for x in found]
