"""The nodes of an ONNX file as a graph for any number of rows, such as an engine runs.

Exporters leave in a graph what computes sizes from sizes, a batch that is written into shapes, axes that change places.
Here the graph is walked with the engine's own rules for two numbers of rows at once: what depends on no input is
computed and becomes a constant; sizes that are proportional to the rows become so for any number of them; and where
rows leave axis 0, as in the queries, keys and values of one product, the axes are reordered (`export.onnx_views`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fsfast.engine.onnx_bytes import DATA_TYPES
from fsfast.engine.onnx_graph import OPSET, Node
from fsfast.engine.operators import OPERATORS, Value, outputs_of
from fsfast.errors import brief

from .graph import ExportedGraph
from .onnx_file import OnnxFile, called
from .onnx_folding import folded
from .onnx_forms import ADAPTED, Form, Known, Made
from .onnx_views import Views
from .outside import layout_of

# Arrays of sizes and places, and factors, stay in the graph, where the engine's rules read their values.
_INLINE_ELEMENTS = 1 << 12
_IR_VERSION = 10
# Numbers of rows: two tell what is proportional to them from what is not.
_COUNTS = (2, 3)
# The tensor that holds the number of rows where something needs it.
_ROWS = "rows"


@dataclass
class _Out:
    """The new graph as it grows."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class RowsGraph:
    """A graph from pixels [M, 3, H, W] to tokens [M, L, D].

    Attributes:
        graph: with its weights.
        layout: of LAYOUTS, what the file's output is.
        features: (L, D).
    """

    graph: ExportedGraph
    layout: str
    features: tuple[int, int]


def for_any_rows(
    file: OnnxFile, entry: str, target: str, size: tuple[int, int], layout: str | None, names: tuple[str, str]
) -> RowsGraph:
    """Return a file's graph for any number of rows.

    Args:
        file: what was read.
        entry, target: names of the file's input and output.
        size: (H, W).
        layout: of LAYOUTS, what the output is; None: what its number of axes says.
        names: of the new graph's input and output.

    Raises:
        ValueError: a node is none that an engine may run, or brings rows together; it is named.
    """
    (shape,) = (tensor.shape for tensor in file.inputs if tensor.name == entry)
    walk = _Walk(file.values, shape[0] if shape else None, names)
    return walk.graph(_needed(file.nodes, target), entry, target, size, layout)


def _needed(nodes: Sequence[onnx.NodeProto], target: str) -> list[onnx.NodeProto]:
    """Return the nodes that the target depends on, in their order."""
    wanted, kept = {target}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


class _Walk:
    """One walk through the nodes, which writes the new graph.

    Args:
        values: of the initialisers.
        batch: the number of rows that the file is written for, None where it is free.
        names: of the new graph's input and output.
    """

    def __init__(self, values: Mapping[str, np.ndarray], batch: int | None, names: tuple[str, str]) -> None:
        self.batch, self.names = batch, names
        self.out = _Out()
        self.views = Views(self._emit)
        self.placed: dict[str, tuple[Known, Made]] = {}
        self.tensors: dict[str, Known | Made] = {name: _fixed(name, value) for name, value in values.items()}

    def graph(
        self,
        nodes: Iterable[onnx.NodeProto],
        entry: str,
        target: str,
        size: tuple[int, int],
        layout: str | None,
    ) -> RowsGraph:
        """See `for_any_rows`."""
        pixels = tuple(Value("float32", (count, 3, *size), rows=True) for count in _COUNTS)
        self.tensors[entry] = Made(self.names[0], pixels)
        for node in nodes:
            try:
                self._step(node)
            except ValueError as error:
                raise ValueError(f"{called(node)}: {brief(error)}") from None
            # What attributes and inputs of other kinds than the operator has bring out of the rules.
            except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError) as error:
                raise ValueError(
                    f"{called(node)} is malformed ({type(error).__name__}: {brief(error)})"
                ) from None
        found = self.tensors.get(target)
        if not isinstance(found, Made):
            raise ValueError(f"the output {target!r} does not depend on the input {entry!r}")
        found = _settled(found)
        layout = layout_of(["M", *found.values[0].shape[1:]], layout)
        tokens = self._tokens(found, layout)
        length, dim = tokens.values[0].shape[1:]
        return RowsGraph(self._exported(tokens, size), layout, (length, dim))

    def _step(self, node: onnx.NodeProto) -> None:
        inputs = [self._input(name) for name in node.input]
        made = [x for x in inputs if isinstance(x, Made)]
        if node.op_type == "Dropout" and not _trained(inputs):
            results: Sequence[Known | Made | None] = inputs[:1]
        elif node.op_type == "Identity":
            results = inputs
        elif not made:
            results = self._folded(node, inputs)
        elif node.op_type in ("Shape", "Size"):
            results = self._sizes(node, made[0])
        else:
            results = self._computed(node, inputs)
        for name, result in zip(node.output, results, strict=False):
            if name in self.tensors:
                raise ValueError(f"it writes {name!r} again")
            if name and result is not None:
                self.tensors[name] = result

    def _input(self, name: str) -> Known | Made | None:
        if not name:
            return None
        if name not in self.tensors:
            raise ValueError(f"it reads {name!r}, which nothing has made before it")
        return self.tensors[name]

    def _folded(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> list[Known]:
        same = all(x is None or x.constant for x in inputs)
        found = [
            folded(node, [None if x is None else x.arrays[i] for x in inputs])
            for i in range(1 if same else len(_COUNTS))
        ]
        if same:
            found *= len(_COUNTS)
        return [
            Known(name, tuple(arrays))
            for name, arrays in zip(node.output, zip(*found, strict=True), strict=False)
        ]

    def _sizes(self, node: onnx.NodeProto, x: Made) -> list[Known]:
        shapes = x.shapes
        given = _attributes(node)
        if node.op_type == "Size":
            arrays = [np.array(prod(shape)) for shape in shapes]
        else:
            arrays = [np.array(shape[given.get("start", 0) : given.get("end")], np.int64) for shape in shapes]
        return [Known(node.output[0], tuple(arrays))]

    def _computed(self, node: onnx.NodeProto, inputs: list[Known | Made | None]) -> list[Made]:
        op, given, outputs = (
            node.op_type,
            _attributes(node),
            [self._own(name) for name in node.output if name],
        )
        if op not in OPERATORS:
            raise ValueError("the operator is not one that an engine may use")
        x = inputs[0]
        form = Form(op, inputs, given, outputs[0], _COUNTS, self.batch)
        if isinstance(x, Made) and op == "Cast" and given.get("to") == DATA_TYPES[x.values[0].dtype]:
            return [x]
        if isinstance(x, Made) and op == "Transpose":
            return [self.views.turned(form)]
        if viewed := [i for i in inputs if isinstance(i, Made) and i.view is not None]:
            if found := self.views.through(form, outputs):
                return found
            _settled(viewed[0])
        if op in ADAPTED:
            ADAPTED[op](form)
        return self._emit(form.op, form.inputs, form.attributes, outputs)

    def _own(self, name: str) -> str:
        """Return the name in the new graph of one of the file's tensors."""
        return f"{name}.of_file" if name in (*self.names, _ROWS) else name

    def _emit(
        self, op: str, inputs: Sequence[Known | Made | None], given: dict[str, Any], outputs: Sequence[str]
    ) -> list[Made]:
        """Add a node; the engine's rules say what it makes, or refuse it."""
        placed = [self._placed(x) for x in inputs]
        while placed and placed[-1] is None:
            placed.pop()
        names = tuple("" if x is None else x.name for x in placed)
        node = Node(op, names, tuple(outputs), given)
        values = [
            outputs_of(node, [None if x is None else x.values[i] for x in placed], count)
            for i, count in enumerate(_COUNTS)
        ]
        self.out.nodes.append(helper.make_node(op, names, outputs, **given))
        return [Made(name, each) for name, each in zip(outputs, zip(*values, strict=True), strict=False)]

    def _placed(self, x: Known | Made | None) -> Made | None:
        """Return a tensor as it stands in the new graph: constants become initialisers, sizes are computed."""
        if x is None or isinstance(x, Made):
            return x
        if not x.arrays[0].size:
            return None
        before, made = self.placed.get(x.name, (None, None))
        if made is not None and before is not None and _equal(before, x):
            return made
        # One name may come in several forms.
        name = self._own(x.name) if made is None else f"{x.name}.form{len(self.placed)}"
        made = self._new(Known(name, x.arrays))
        self.placed.setdefault(x.name, (x, made))
        return made

    def _new(self, x: Known) -> Made:
        if x.constant:
            array = x.arrays[0].astype(np.int64) if x.arrays[0].dtype == np.int32 else x.arrays[0]
            self.out.arrays[x.name] = array
            return Made(x.name, (_value(array),) * len(_COUNTS))
        return self._sized(x) if x.arrays[0].dtype == np.int64 else self._repeated(x)

    def _sized(self, x: Known) -> Made:
        """Sizes: the number of rows times one vector, plus another."""
        first, second = x.arrays
        slope = second - first if first.shape == second.shape else np.zeros(0)
        rest = first - _COUNTS[0] * slope if slope.size else slope
        if first.ndim != 1 or not slope.size or rest[slope != 0].any():
            raise ValueError(f"{x.name!r} depends on the number of rows, and is no multiple of it")
        if _ROWS not in self.tensors:
            self.out.nodes.insert(0, helper.make_node("Shape", [self.names[0]], [_ROWS], start=0, end=1))
            rows = tuple(Value("int64", (1,), np.array([count])) for count in _COUNTS)
            self.tensors[_ROWS] = Made(_ROWS, rows)
        scale, offset = (_fixed(f"{x.name}.{part}", v) for part, v in (("per_row", slope), ("rest", rest)))
        (scaled,) = self._emit("Mul", [self.tensors[_ROWS], scale], {}, [f"{x.name}.scaled"])
        (made,) = self._emit("Add", [scaled, offset], {}, [f"{x.name}.sizes"])
        return made

    def _repeated(self, x: Known) -> Made:
        """A constant that is the same for every row."""
        base = x.arrays[0][:1]
        shapes = [(count, *base.shape[1:]) for count in _COUNTS]
        if not base.ndim or not all(
            a.shape == shape and np.array_equal(a, np.broadcast_to(base, shape))
            for a, shape in zip(x.arrays, shapes, strict=True)
        ):
            raise ValueError(f"{x.name!r} depends on the number of rows")
        sizes = Known(f"{x.name}.shape", tuple(np.array(shape, np.int64) for shape in shapes))
        (made,) = self._emit("Expand", [_fixed(f"{x.name}.base", base), sizes], {}, [f"{x.name}.for_rows"])
        return made

    def _tokens(self, x: Made, layout: str) -> Made:
        """Return the output as [M, L, D]."""
        shape = x.values[0].shape[1:]
        if x.values[0].dtype != "float32":
            raise ValueError(f"wanted a float32 output, got {x.values[0].dtype}")
        sizes = {
            "tokens": [0, *shape],
            "pooled": [0, 1, shape[0]],
            "map": [0, shape[0], prod(shape[1:])],
            "map-last": [0, prod(shape[:-1]), shape[-1]],
        }[layout]
        last = self.names[1]
        flat = f"{last}.flat" if layout == "map" else last
        (made,) = self._emit("Reshape", [x, _fixed(f"{last}.shape", np.array(sizes, np.int64))], {}, [flat])
        if layout == "map":
            (made,) = self._emit("Transpose", [made], {"perm": [0, 2, 1]}, [last])
        return made

    def _exported(self, tokens: Made, size: tuple[int, int]) -> ExportedGraph:
        inline, weights = [], {}
        factors = {name for node in self.out.nodes if node.op_type == "Resize" for name in node.input[2:3]}
        for name, array in self.out.arrays.items():
            sizes = array.dtype == np.int64 and array.size <= _INLINE_ELEMENTS
            if sizes or name in factors or not array.ndim:
                inline.append(numpy_helper.from_array(np.array(array), name))
            else:
                weights[name] = array
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", *shape])
            for name, shape in zip(self.names, ((3, *size), tokens.values[0].shape[1:]), strict=True)
        ]
        outside = [_external(name, array) for name, array in weights.items()]
        graph = helper.make_graph(self.out.nodes, "graph", ends[:1], ends[1:], [*inline, *outside])
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, producer_name="fsfast", opset_imports=[opset], ir_version=_IR_VERSION
        )
        return ExportedGraph(model, weights, {name: name for name in weights})


def _external(name: str, array: np.ndarray) -> TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="length", value=str(array.nbytes))
    return tensor


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes, without those that say what goes without saying."""
    known = onnx.defs.get_schema(node.op_type, OPSET).attributes if onnx.defs.has(node.op_type) else {}
    found = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        usual = known[attribute.name].default_value if attribute.name in known else None
        if usual is None or not usual.type or helper.get_attribute_value(usual) != value:
            found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _fixed(name: str, array: np.ndarray) -> Known:
    """Return a tensor that is the same for all numbers of rows."""
    return Known(name, (array,) * len(_COUNTS))


def _equal(a: Known, b: Known) -> bool:
    pairs = zip(a.arrays, b.arrays, strict=True)
    return all(x is y or (x.dtype == y.dtype and np.array_equal(x, y)) for x, y in pairs)


def _trained(inputs: Sequence[Known | Made | None]) -> bool:
    """Whether a Dropout is switched on, or not known to be off."""
    switch = inputs[2] if len(inputs) > 2 else None
    return switch is not None and not (isinstance(switch, Known) and not any(a.any() for a in switch.arrays))


def _settled(x: Made) -> Made:
    if x.view is not None:
        place = next(i for i, group in enumerate(x.view) if 0 in group)
        raise ValueError(
            f"rows of the micro-batch lie along axis {place} of an input, a view of {x.name!r}; wanted them along "
            "axis 0 (torch: batch_first=True, and a dynamic batch)"
        )
    return x


def _value(array: np.ndarray) -> Value:
    """Return what the engine's rules know of a constant."""
    few = array.size <= _INLINE_ELEMENTS and array.dtype in (np.int64, np.float32)
    kind = np.float64 if array.dtype == np.float32 else np.int64
    return Value(str(array.dtype), array.shape, np.array(array, kind) if few else None)
