"""The operators that an engine's graphs may use, and what each makes of shapes: the memory and work of a graph, unrun.

A list of what is allowed rather than of what is not: libraries behind us end the process on some arguments of ordinary
operators (an integer division of the smallest number by −1, a window of length 0), each on its own, and nobody knows
them all. Every operator here is a function of floating-point tensors that cannot trap, or moves and counts elements;
integers are only ever sizes and places, whose values are followed. Anything else is refused before a library sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fsfast.engine.onnx_graph import Constant, Graph, Node
from fsfast.errors import brief

FLOATS = ("float32", "float16", "bfloat16")
_EIGHT_BITS = ("int8", "uint8")
_SIZES = {"float32": 4, "int32": 4, "int64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
# Of the axes, a size, and the elements of a tensor whose values are followed: no network of ours comes near them, and
# libraries were not tried beyond.
_MOST_AXES, _LARGEST, _MOST_KNOWN = 8, (1 << 31) - 1, 1 << 12
# Of the multiplications that an element costs where each is read and written once.
_ELEMENT = 16


@dataclass(frozen=True)
class Value:
    """A tensor somewhere in a graph.

    Attributes:
        dtype: its type.
        shape: its dimensions.
        known: its values where they are few and the graph itself gives them.
        rows: whether axis 0 is the rows of the micro-batch, one block after the other, and nothing of one has entered
            another; a tensor without rows is the same whatever the input.
    """

    dtype: str
    shape: tuple[int, ...]
    known: np.ndarray | None = None
    rows: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) > _MOST_AXES or not all(0 < size <= _LARGEST for size in self.shape):
            raise ValueError(f"a tensor of shape {brief(list(self.shape))}")
        if prod(self.shape) > 1 << 40:
            raise ValueError(f"a tensor of {prod(self.shape)} elements")

    @property
    def bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * _SIZES[self.dtype]


@dataclass(frozen=True)
class Demand:
    """What a graph needs for so many rows, its weights not counted.

    Attributes:
        peak_bytes: the most that its tensors hold at once, where nodes run in their order.
        total_bytes: what all of them hold together: libraries may choose another order.
        products: multiplications, about; an element that is only read and written counts as several.
    """

    peak_bytes: int
    total_bytes: int
    products: int


class _Scene:
    """A node with the values of its inputs, for the rules below."""

    def __init__(self, node: Node, values: Sequence[Value | None], rows: int):
        self.node, self.values, self.rows = node, values, rows

    def at(self, place: int) -> Value:
        """Return an input that must be there."""
        found = self.values[place] if place < len(self.values) else None
        if found is None:
            raise ValueError(f"{self.node.op} has no input {place}")
        return found

    def maybe(self, place: int) -> Value | None:
        """Return an input that may be left out."""
        return self.values[place] if place < len(self.values) else None

    def integers(self, place: int) -> list[int]:
        """Return the numbers of an input that must be known."""
        found = self.at(place)
        if found.known is None or found.dtype != "int64":
            raise ValueError(f"{self.node.op}: input {place} must be numbers that the graph itself gives")
        return [int(x) for x in found.known.reshape(-1)]

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute, or what it means where it is left out."""
        return self.node.attributes.get(name, default)

    def axis(self, name: str, x: Value, default: int) -> int:
        """Return an axis along which elements of `x` are brought together, in 0 … rank − 1."""
        return self.along(int(self.attribute(name, default)), x)

    def along(self, axis: int, x: Value) -> int:
        """Return an axis in 0 … rank − 1; never the rows'."""
        place = _axis(self.node.op, axis, len(x.shape))
        if x.rows and place == 0:
            raise ValueError(f"{self.node.op} along axis 0 would bring rows of the micro-batch together")
        return place


def _axis(op: str, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"{op}: axis {axis} of {rank}")
    return axis % rank


_Rule = Callable[[_Scene], list[Value]]


def _floating(*values: Value) -> None:
    if any(value.dtype not in FLOATS for value in values):
        raise ValueError(f"wanted floating-point tensors, got {', '.join(v.dtype for v in values)}")


def _like(scene: _Scene) -> list[Value]:
    """Element by element."""
    x = scene.at(0)
    _floating(x)
    return [Value(x.dtype, x.shape, rows=x.rows)]


def _together(op: str, values: Sequence[Value]) -> tuple[tuple[int, ...], bool]:
    """Return the shape of tensors that are broadcast, and whether it has rows.

    What has none may not stretch along them but by one element: it would be another one for each place.
    """
    shape = np.broadcast_shapes(*(v.shape for v in values))
    rows = any(v.rows for v in values)
    for value in values if rows else ():
        aligned = len(value.shape) == len(shape)
        if (value.rows and not (aligned and value.shape[0] == shape[0])) or (
            not value.rows and aligned and value.shape[0] != 1
        ):
            raise ValueError(
                f"{op} of {[list(v.shape) for v in values]} would tell rows of the micro-batch apart"
            )
    return shape, rows


def _broadcast(scene: _Scene) -> list[Value]:
    """Element by element, of several tensors."""
    values = [scene.at(i) for i in range(len(scene.values))]
    _floating(*values)
    shape, rows = _together(scene.node.op, values)
    return [Value(values[0].dtype, shape, rows=rows)]


def _keeping(scene: _Scene) -> list[Value]:
    """Element by element, with parameters that do not enlarge the first tensor; those of Clip are single numbers."""
    values = [v for v in scene.values if v is not None]
    x = scene.at(0)
    _floating(*values)
    if any(len(v.shape) and scene.node.op == "Clip" for v in values[1:]):
        raise ValueError("Clip: wanted single numbers")
    shape, rows = _together(scene.node.op, values)
    if shape != x.shape or rows != x.rows:
        raise ValueError(f"{scene.node.op} of {[list(v.shape) for v in values]}")
    return [Value(x.dtype, x.shape, rows=x.rows)]


def _arithmetic(scene: _Scene) -> list[Value]:
    """Addition, subtraction, multiplication: also of sizes, whose values are followed."""
    a, b = scene.at(0), scene.at(1)
    if a.dtype != "int64" and b.dtype != "int64":
        return _broadcast(scene)
    if a.known is None or b.known is None or a.dtype != b.dtype:
        raise ValueError(f"{scene.node.op} of integers that are no sizes")
    shape = np.broadcast_shapes(a.shape, b.shape)
    if prod(shape) > _MOST_KNOWN:
        raise ValueError(f"{scene.node.op} of {prod(shape)} sizes")
    operate = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[scene.node.op]
    # Python's integers have no end.
    found = operate(a.known.astype(object), b.known.astype(object))
    if any(abs(value) > _LARGEST for value in np.ravel(found)):
        raise ValueError(f"{scene.node.op} of sizes beyond {_LARGEST}")
    return [Value("int64", shape, np.array(found, np.int64).reshape(shape))]


def _normalised(scene: _Scene) -> list[Value]:
    """Normalisations with a scale (and an offset) beside the data."""
    x = scene.at(0)
    parameters = [v for v in scene.values[1:] if v is not None]
    _floating(x, *parameters)
    if scene.node.op in ("GroupNormalization", "InstanceNormalization", "BatchNormalization"):
        groups = int(scene.attribute("num_groups", 1))
        if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
            raise ValueError(f"{scene.node.op}: {groups} groups of {list(x.shape)}")
        wanted = x.shape[1:2]
    else:
        wanted = x.shape[scene.axis("axis", x, -1) :]
    count = {"BatchNormalization": 4, "RMSNormalization": 1}.get(scene.node.op)
    if any(v.shape != wanted or v.rows for v in parameters) or len(parameters) != (count or len(parameters)):
        raise ValueError(f"{scene.node.op} of {list(x.shape)} with {[list(v.shape) for v in parameters]}")
    return [Value(x.dtype, x.shape, rows=x.rows)]


def _softmax(scene: _Scene) -> list[Value]:
    scene.axis("axis", scene.at(0), -1)
    return _like(scene)


def _matmul(scene: _Scene) -> list[Value]:
    a, b = scene.at(0), scene.at(1)
    _floating(a, b)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"MatMul of {list(a.shape)} and {list(b.shape)}")
    if b.rows and len(b.shape) == 2:
        raise ValueError("MatMul would bring rows of the micro-batch together")
    # As if the last two axes were one element each, which a product does not mix with others.
    firsts = [Value(v.dtype, (*v.shape[:-2], 1, 1), rows=v.rows and len(v.shape) > 2) for v in (a, b)]
    batch, rows = _together("MatMul", firsts)
    rows = rows or (a.rows and len(a.shape) == 2 and len(batch) == 2)
    if a.rows and not rows:
        raise ValueError(f"MatMul of {list(a.shape)} and {list(b.shape)} would tell rows apart")
    return [Value(a.dtype, (*batch[:-2], a.shape[-2], b.shape[-1]), rows=rows)]


def _gemm(scene: _Scene) -> list[Value]:
    a, b, c = scene.at(0), scene.at(1), scene.maybe(2)
    _floating(*(v for v in scene.values if v is not None))
    turned = bool(scene.attribute("transA", 0))
    if len(a.shape) != 2 or len(b.shape) != 2 or b.rows or (turned and a.rows):
        raise ValueError(f"Gemm of {list(a.shape)} and {list(b.shape)}")
    m, k = a.shape[::-1] if turned else a.shape
    inner, n = b.shape[::-1] if scene.attribute("transB", 0) else b.shape
    out = Value(a.dtype, (m, n), rows=a.rows)
    if inner != k or (c is not None and _together("Gemm", [out, c]) != ((m, n), a.rows)):
        raise ValueError(f"Gemm of {list(a.shape)} and {list(b.shape)}")
    return [out]


def _window(scene: _Scene, kernel: Sequence[int], spatial: Sequence[int]) -> tuple[int, ...]:
    """Return the spatial sizes after a convolution or a pooling.

    Libraries disagree where windows are rounded up or padding is theirs to choose: sizes are given, and rounded down.
    """
    rank = len(spatial)
    strides, dilations = (list(scene.attribute(n, [1] * rank)) for n in ("strides", "dilations"))
    pads = list(scene.attribute("pads", [0] * 2 * rank))
    if (
        not len(kernel) == len(strides) == len(dilations) == rank
        or len(pads) != 2 * rank
        or not 1 <= rank <= 2
    ):
        raise ValueError(f"{scene.node.op}: a window of {brief(list(kernel))} on {rank} axes")
    if scene.attribute("auto_pad", "NOTSET") != "NOTSET" or scene.attribute("ceil_mode", 0):
        raise ValueError(f"{scene.node.op}: wanted padding in numbers, and sizes rounded down")
    pooled = scene.node.op != "Conv"
    if scene.attribute("storage_order", 0) or (
        pooled and (set(dilations) != {1} or max(pads) >= min(kernel))
    ):
        raise ValueError(
            f"{scene.node.op}: dilations {dilations}, pads {pads} of a window {brief(list(kernel))}"
        )
    numbers = (*kernel, *strides, *dilations)
    if min(numbers) < 1 or min(pads) < 0 or max(*numbers, *pads) > 1 << 16:
        raise ValueError(
            f"{scene.node.op}: wanted positive sizes, got {list(kernel)}, {strides}, {dilations}, {pads}"
        )
    out = []
    for i, size in enumerate(spatial):
        whole, reach = size + pads[i] + pads[i + rank], (kernel[i] - 1) * dilations[i] + 1
        if whole < reach:
            raise ValueError(f"{scene.node.op}: a window of {reach} on {whole} elements")
        out.append((whole - reach) // strides[i] + 1)
    return tuple(out)


def _conv(scene: _Scene) -> list[Value]:
    x, w, bias = scene.at(0), scene.at(1), scene.maybe(2)
    _floating(*(v for v in scene.values if v is not None))
    group = int(scene.attribute("group", 1))
    said = f"Conv of {list(x.shape)} with {list(w.shape)} in {group} groups"
    if len(x.shape) < 3 or len(w.shape) != len(x.shape) or group < 1 or w.shape[0] % group or w.rows:
        raise ValueError(said)
    if x.shape[1] != w.shape[1] * group or list(scene.attribute("kernel_shape", w.shape[2:])) != [
        *w.shape[2:]
    ]:
        raise ValueError(said)
    if bias is not None and (bias.shape != (w.shape[0],) or bias.rows):
        raise ValueError(f"{said} and a bias of {list(bias.shape)}")
    shape = (x.shape[0], w.shape[0], *_window(scene, w.shape[2:], x.shape[2:]))
    return [Value(x.dtype, shape, rows=x.rows)]


def _pool(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    _floating(x)
    shape = (*x.shape[:2], *_window(scene, scene.attribute("kernel_shape", []), x.shape[2:]))
    return [Value(x.dtype, shape, rows=x.rows)]


def _global_pool(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    _floating(x)
    return [Value(x.dtype, (*x.shape[:2], *(1 for _ in x.shape[2:])), rows=x.rows)]


def _reduce(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    _floating(x)
    axes = scene.integers(1) if scene.maybe(1) is not None else []
    if not axes and scene.attribute("noop_with_empty_axes", 0):
        raise ValueError(f"{scene.node.op} along no axis")
    gone = [scene.along(int(a), x) for a in axes or range(len(x.shape))]
    if len(set(gone)) != len(gone):
        raise ValueError(f"{scene.node.op} twice along an axis")
    keep = scene.attribute("keepdims", 1)
    shape = tuple(1 if i in gone else d for i, d in enumerate(x.shape) if keep or i not in gone)
    return [Value(x.dtype, shape, rows=x.rows)]


def _shape(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    found = np.array(x.shape[slice(scene.attribute("start", 0), scene.attribute("end", None))], np.int64)
    return [Value("int64", found.shape, found)]


def _constant(scene: _Scene) -> list[Value]:
    given = scene.node.attributes
    if len(given) != 1:
        raise ValueError(f"Constant with {len(given)} values")
    ((name, value),) = given.items()
    if isinstance(value, Constant):
        return [Value(value.dtype, value.shape, value.values)]
    if name in ("value_int", "value_ints"):
        found = np.array(value, np.int64)
        return [Value("int64", found.shape, found)]
    if name in ("value_float", "value_floats"):
        return [Value("float32", np.shape(value))]
    raise ValueError("Constant without a value of a known kind")


def _reshape(scene: _Scene) -> list[Value]:
    x, wanted = scene.at(0), scene.integers(1)
    if not scene.attribute("allowzero", 0):
        wanted = [x.shape[i] if d == 0 and i < len(x.shape) else d for i, d in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1 or 0 in wanted:
        raise ValueError(f"Reshape to {brief(wanted)}")
    if -1 in wanted:
        wanted[wanted.index(-1)] = prod(x.shape) // prod(d for d in wanted if d != -1)
    if prod(wanted) != prod(x.shape):
        raise ValueError(f"Reshape of {list(x.shape)} to {brief(wanted)}")
    # Blocks of axis 0 must not reach across two rows.
    if x.rows and (not wanted or wanted[0] % scene.rows):
        raise ValueError(
            f"Reshape of {list(x.shape)} to {brief(wanted)} would bring rows of the micro-batch together"
        )
    known = None if x.known is None else x.known.reshape(wanted)
    return [Value(x.dtype, tuple(wanted), known, x.rows)]


def _transpose(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    perm = [int(p) for p in scene.attribute("perm", range(len(x.shape))[::-1])]
    if sorted(perm) != list(range(len(x.shape))) or (x.rows and perm[0] != 0):
        raise ValueError(f"Transpose of {list(x.shape)} by {brief(perm)}")
    return [Value(x.dtype, tuple(x.shape[p] for p in perm), rows=x.rows)]


def _concat(scene: _Scene) -> list[Value]:
    values = [scene.at(i) for i in range(len(scene.values))]
    if not values or len({(v.dtype, len(v.shape)) for v in values}) != 1:
        raise ValueError("Concat of tensors of several kinds")
    rows = {v.rows for v in values}
    if len(rows) != 1:
        raise ValueError("Concat of rows of the micro-batch and of something else")
    axis = scene.axis("axis", values[0], 0)
    shapes = [(*v.shape[:axis], *v.shape[axis + 1 :]) for v in values]
    if len(set(shapes)) != 1:
        raise ValueError(f"Concat of {brief([list(v.shape) for v in values])}")
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    arrays = [v.known for v in values if v.known is not None]
    known = (
        np.concatenate(arrays, axis) if len(arrays) == len(values) and prod(shape) <= _MOST_KNOWN else None
    )
    return [Value(values[0].dtype, tuple(shape), known, rows.pop())]


def _slice(scene: _Scene) -> list[Value]:
    x, starts, ends = scene.at(0), scene.integers(1), scene.integers(2)
    axes = scene.integers(3) if scene.maybe(3) is not None else list(range(len(starts)))
    steps = scene.integers(4) if scene.maybe(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        raise ValueError(f"Slice from {brief(starts)} to {brief(ends)} by {brief(steps)}")
    places = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = scene.along(axis, x)
        if places[place] != slice(None):
            raise ValueError(f"Slice twice along axis {place}")
        places[place] = slice(start, end, step)
    shape = tuple(len(range(*place.indices(size))) for place, size in zip(places, x.shape, strict=True))
    return [Value(x.dtype, shape, None if x.known is None else x.known[tuple(places)], x.rows)]


def _split(scene: _Scene) -> list[Value]:
    x, count = scene.at(0), len(scene.node.outputs)
    axis = scene.axis("axis", x, 0)
    if count != scene.attribute("num_outputs", count) or count < 1:
        raise ValueError(f"Split into {count} outputs")
    if scene.maybe(1) is not None:
        sizes = scene.integers(1)
    else:
        part = -(-x.shape[axis] // count)
        sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    if len(sizes) != count or sum(sizes) != x.shape[axis] or min(sizes) < 1:
        raise ValueError(f"Split of {list(x.shape)} into {brief(sizes)}")
    return [Value(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :]), rows=x.rows) for size in sizes]


def _expand(scene: _Scene) -> list[Value]:
    x, wanted = scene.at(0), scene.integers(1)
    if min(wanted, default=1) < 1:
        raise ValueError(f"Expand to {brief(wanted)}")
    shape = np.broadcast_shapes(x.shape, tuple(wanted))
    if not x.rows:
        # Repeated along axis 0: equal blocks, as many for each row.
        repeated = len(shape) > len(x.shape) or (bool(shape) and x.shape[0] == 1)
        return [Value(x.dtype, shape, rows=repeated and bool(shape) and shape[0] % scene.rows == 0)]
    if len(shape) != len(x.shape) or shape[0] != x.shape[0]:
        raise ValueError(f"Expand of {list(x.shape)} to {brief(wanted)}")
    return [Value(x.dtype, shape, rows=True)]


def _tile(scene: _Scene) -> list[Value]:
    x, counts = scene.at(0), scene.integers(1)
    if len(counts) != len(x.shape) or min(counts, default=1) < 1 or (x.rows and counts[0] != 1):
        raise ValueError(f"Tile of {list(x.shape)} by {brief(counts)}")
    shape = tuple(d * n for d, n in zip(x.shape, counts, strict=True))
    equal = bool(shape) and x.shape[0] == 1 and shape[0] % scene.rows == 0
    return [Value(x.dtype, shape, rows=x.rows or equal)]


def _squeeze(scene: _Scene) -> list[Value]:
    x, axes = scene.at(0), scene.integers(1)
    gone = {scene.along(a, x) for a in axes}
    if any(x.shape[i] != 1 for i in gone) or len(gone) != len(axes):
        raise ValueError(f"Squeeze of {list(x.shape)} along {brief(axes)}")
    shape = tuple(d for i, d in enumerate(x.shape) if i not in gone)
    return [Value(x.dtype, shape, None if x.known is None else x.known.reshape(shape), x.rows)]


def _unsqueeze(scene: _Scene) -> list[Value]:
    x, axes = scene.at(0), scene.integers(1)
    rank = len(x.shape) + len(axes)
    new = {_axis("Unsqueeze", a, rank) for a in axes}
    if len(new) != len(axes) or (x.rows and 0 in new):
        raise ValueError(f"Unsqueeze of {list(x.shape)} along {brief(axes)}")
    rest = iter(x.shape)
    shape = tuple(1 if i in new else next(rest) for i in range(rank))
    return [Value(x.dtype, shape, None if x.known is None else x.known.reshape(shape), x.rows)]


def _flatten(scene: _Scene) -> list[Value]:
    x, axis = scene.at(0), int(scene.attribute("axis", 1))
    if not 1 <= axis <= len(x.shape):
        raise ValueError(f"Flatten of {list(x.shape)} at {axis}")
    return [Value(x.dtype, (prod(x.shape[:axis]), prod(x.shape[axis:])), rows=x.rows)]


def _gather(scene: _Scene) -> list[Value]:
    """With places that the graph itself gives: none lies outside."""
    x, places, wanted = scene.at(0), scene.at(1), scene.integers(1)
    axis = scene.axis("axis", x, 0)
    if any(not -x.shape[axis] <= i < x.shape[axis] for i in wanted):
        raise ValueError(f"Gather of place {brief(wanted)} of {x.shape[axis]}")
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    few = x.known is not None and prod(shape) <= _MOST_KNOWN
    known = np.take(x.known, np.reshape(wanted, places.shape), axis) if few and x.known is not None else None
    return [Value(x.dtype, shape, known, x.rows)]


def _resize(scene: _Scene) -> list[Value]:
    """Of pictures [N, C, h, w], to sizes or by factors."""
    x = scene.at(0)
    _floating(x)
    stretched = scene.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
    if (
        len(x.shape) != 4
        or not stretched
        or scene.attribute("coordinate_transformation_mode", "") == _CROPPED
    ):
        raise ValueError(f"Resize of {list(x.shape)}: wanted pictures, stretched")
    if scene.maybe(3) is not None:
        sizes = scene.integers(3)
    else:
        factors = scene.at(2)
        known = factors.known if factors.dtype == "float32" and factors.shape == (4,) else None
        if known is None or not (known > 0).all():
            raise ValueError("wanted sizes, or four positive factors, in the graph itself")
        # As libraries multiply them.
        sizes = [int(np.float32(d) * np.float32(f)) for d, f in zip(x.shape, known, strict=True)]
    if len(sizes) != 4 or tuple(sizes[:2]) != x.shape[:2]:
        raise ValueError(f"Resize of {list(x.shape)} to {brief(sizes)}")
    return [Value(x.dtype, tuple(sizes), rows=x.rows)]


def _depth_to_space(scene: _Scene) -> list[Value]:
    x, block = scene.at(0), int(scene.attribute("blocksize", 0))
    _floating(x)
    if len(x.shape) != 4 or not 1 <= block <= 1 << 10 or x.shape[1] % block**2:
        raise ValueError(f"DepthToSpace of {list(x.shape)} by {block}")
    n, c, h, w = x.shape
    return [Value(x.dtype, (n, c // block**2, h * block, w * block), rows=x.rows)]


def _pad(scene: _Scene) -> list[Value]:
    x, pads, value = scene.at(0), scene.integers(1), scene.maybe(2)
    _floating(x, *(() if value is None else (value,)))
    rank, mode = len(x.shape), scene.attribute("mode", "constant")
    if (
        len(pads) != 2 * rank
        or min(pads) < 0
        or scene.maybe(3) is not None
        or (x.rows and (pads[0] or pads[rank]))
    ):
        raise ValueError(f"Pad of {list(x.shape)} by {brief(pads)}")
    inside = all(pads[i] < d and pads[i + rank] < d for i, d in enumerate(x.shape))
    if mode not in ("constant", "edge", "reflect") or (mode == "reflect" and not inside):
        raise ValueError(f"Pad of {list(x.shape)} by {brief(pads)} with the mode {mode!r}")
    if value is not None and (value.shape or value.rows):
        raise ValueError(f"Pad with a value of shape {list(value.shape)}")
    return [Value(x.dtype, tuple(d + pads[i] + pads[i + rank] for i, d in enumerate(x.shape)), rows=x.rows)]


def _cast(scene: _Scene) -> list[Value]:
    """Among floating-point types: of integers only sizes are followed, and they have one type."""
    x, to = scene.at(0), {1: "float32", 10: "float16", 16: "bfloat16"}.get(scene.attribute("to", 0))
    _floating(x)
    if to is None:
        raise ValueError(f"Cast to the type {scene.attribute('to', 0)}")
    return [Value(to, x.shape, rows=x.rows)]


def _quantise(scene: _Scene) -> list[Value]:
    x, zero = scene.at(0), scene.maybe(2)
    _floating(x)
    _check_scale(scene, x)
    return [Value("uint8" if zero is None else zero.dtype, x.shape, rows=x.rows)]


def _dequantise(scene: _Scene) -> list[Value]:
    x = scene.at(0)
    # Offsets of 8-bit products are stored in 32 bits.
    if x.dtype not in (*_EIGHT_BITS, "int32"):
        raise ValueError(f"wanted stored integers, got {x.dtype}")
    _check_scale(scene, x)
    return [Value(scene.at(1).dtype, x.shape, rows=x.rows)]


def _check_scale(scene: _Scene, x: Value) -> None:
    """Refuse scale and zero point unless they are single numbers, or one for each place of an axis."""
    scale, zero = scene.at(1), scene.maybe(2)
    _floating(scale)
    wanted: tuple[int, ...] = ()
    if scale.shape:
        wanted = (x.shape[scene.axis("axis", x, 1)],)
    for value in (scale, zero):
        if value is not None and (
            value.shape not in ((), wanted) or value.shape != scale.shape or value.rows
        ):
            raise ValueError(f"a scale or a zero point of {list(value.shape)} for {list(x.shape)}")
    if zero is not None and zero.dtype not in (*_EIGHT_BITS, "int32"):
        raise ValueError(f"a zero point of the type {zero.dtype}")


def _same(scene: _Scene) -> list[Value]:
    return [scene.at(0)]


_CROPPED = "tf_crop_and_resize"
_WINDOW = {"auto_pad", "dilations", "kernel_shape", "pads", "strides"}
_RESIZE = {
    *(
        "antialias",
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
    ),
    *("keep_aspect_ratio_policy", "mode", "nearest_mode"),
}
# Operator → its rule, and the attributes that it may have.
OPERATORS: Mapping[str, tuple[_Rule, set[str]]] = {
    **{
        op: (_like, set())
        for op in ("Abs", "Cos", "Erf", "Exp", "HardSwish", "Log", "Mish", "Neg", "Reciprocal")
    },
    **{op: (_like, set()) for op in ("Relu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh")},
    **{op: (_like, {"alpha"}) for op in ("Elu", "LeakyRelu")},
    **{op: (_broadcast, set()) for op in ("Div", "Max", "Min", "Pow")},
    **{op: (_keeping, set()) for op in ("Clip", "PRelu")},
    **{op: (_arithmetic, set()) for op in ("Add", "Mul", "Sub")},
    "Gelu": (_like, {"approximate"}),
    "HardSigmoid": (_like, {"alpha", "beta"}),
    **{op: (_softmax, {"axis"}) for op in ("LogSoftmax", "Softmax")},
    "BatchNormalization": (_normalised, {"epsilon", "momentum"}),
    "GroupNormalization": (_normalised, {"epsilon", "num_groups", "stash_type"}),
    "InstanceNormalization": (_normalised, {"epsilon"}),
    "LayerNormalization": (_normalised, {"axis", "epsilon", "stash_type"}),
    "MatMul": (_matmul, set()),
    "Gemm": (_gemm, {"alpha", "beta", "transA", "transB"}),
    "Conv": (_conv, {*_WINDOW, "group"}),
    "AveragePool": (_pool, {*_WINDOW, "ceil_mode", "count_include_pad"}),
    "MaxPool": (_pool, {*_WINDOW, "ceil_mode", "storage_order"}),
    "GlobalAveragePool": (_global_pool, set()),
    **{
        op: (_reduce, {"keepdims", "noop_with_empty_axes"})
        for op in ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
    },
    "Constant": (_constant, {"value", "value_float", "value_floats", "value_int", "value_ints"}),
    "Shape": (_shape, {"start", "end"}),
    "Identity": (_same, set()),
    "Reshape": (_reshape, {"allowzero"}),
    "Transpose": (_transpose, {"perm"}),
    "Concat": (_concat, {"axis"}),
    "Slice": (_slice, set()),
    "Split": (_split, {"axis", "num_outputs"}),
    "Expand": (_expand, set()),
    "Tile": (_tile, set()),
    "Squeeze": (_squeeze, set()),
    "Unsqueeze": (_unsqueeze, set()),
    "Flatten": (_flatten, {"axis"}),
    "Gather": (_gather, {"axis"}),
    "Resize": (_resize, _RESIZE),
    "DepthToSpace": (_depth_to_space, {"blocksize", "mode"}),
    "Pad": (_pad, {"mode"}),
    "Cast": (_cast, {"to", "saturate"}),
    "QuantizeLinear": (_quantise, {"axis", "saturate"}),
    "DequantizeLinear": (_dequantise, {"axis"}),
}


def demand_of(graph: Graph, rows: int) -> Demand:
    """Return what a graph needs for so many rows, and prove that none of them enters another.

    Args:
        graph: parsed.
        rows: M, as it is run.

    Raises:
        ValueError: an operator that an engine may not use, with an attribute that is not known, or on tensors that it
            is not for; rows that are brought together, or told apart by their places; a tensor that nothing makes; an
            output of another shape than the graph says.
    """
    name, dtype, shape = graph.input
    if odd := [key for key, c in graph.constants.items() if c.dtype not in _SIZES]:
        raise ValueError(f"initialiser {odd[0]!r} has the type {graph.constants[odd[0]].dtype}")
    values = {key: Value(c.dtype, c.shape, c.values) for key, c in graph.constants.items()}
    if name in values:
        raise ValueError(f"{name!r} is input and initialiser")
    values[name] = Value(dtype, (rows, *shape), rows=True)
    last = {tensor: i for i, node in enumerate(graph.nodes) for tensor in node.inputs}
    last[graph.output[0]] = len(graph.nodes)
    # Computed once and kept by libraries.
    fixed = {*graph.constants, ""}
    held = peak = total = values[name].bytes
    products = 0
    for i, node in enumerate(graph.nodes):
        inputs = [_input(node, tensor, values) for tensor in node.inputs]
        outputs = outputs_of(node, inputs, rows)
        for tensor, value in zip(node.outputs, outputs, strict=False):
            if tensor in values:
                raise ValueError(f"{node.op} writes {tensor!r} again")
            values[tensor] = value
            held += value.bytes
            total += value.bytes
            if fixed.issuperset(node.inputs):
                fixed.add(tensor)
        peak = max(peak, held)
        products += _products(node, inputs, outputs)
        unread = {t for t in node.outputs if last.get(t, -1) <= i}
        held -= sum(values[t].bytes for t in ({t for t in node.inputs if last[t] == i} | unread) - fixed)
    wanted, kind, tail = graph.output
    found = values.get(wanted)
    if found is None or not found.rows or (found.dtype, found.shape) != (kind, (rows, *tail)):
        got = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"wanted {wanted!r} {kind} {[rows, *tail]} of the rows, got {got}")
    return Demand(peak, total, products)


def _input(node: Node, tensor: str, values: Mapping[str, Value]) -> Value | None:
    if not tensor:
        return None
    if tensor not in values:
        raise ValueError(f"{node.op} reads {tensor!r}, which nothing has made before it")
    return values[tensor]


def outputs_of(node: Node, inputs: Sequence[Value | None], rows: int) -> list[Value]:
    """Return what a node makes of its inputs.

    Args:
        node: one operation.
        inputs: its inputs in their order, None for one that is left out.
        rows: M, as it is run.

    Raises:
        ValueError: as `demand_of`, of this node alone.
    """
    if node.op not in OPERATORS:
        raise ValueError(f"the operator {node.op} is not one that an engine may use")
    rule, attributes = OPERATORS[node.op]
    if unknown := sorted(set(node.attributes) - attributes):
        raise ValueError(f"{node.op} has the attribute {unknown[0]!r}, which an engine may not use")
    if not node.outputs or "" in node.outputs:
        raise ValueError(f"{node.op} has no output, or one without a name")
    try:
        outputs = rule(_Scene(node, inputs, rows))
    except (TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{node.op} is malformed: {error}") from None
    except ValueError as error:
        raise ValueError(f"{node.op}: {error}") from None
    if len(node.outputs) > len(outputs):
        raise ValueError(f"{node.op} has {len(node.outputs)} outputs")
    return outputs


def _products(node: Node, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> int:
    size = prod(outputs[0].shape)
    weights = inputs[1] if len(inputs) > 1 else None
    if node.op == "Conv" and weights is not None:
        return size * prod(weights.shape[1:])
    if node.op in ("MatMul", "Gemm") and inputs[0] is not None:
        return size * inputs[0].shape[0 if node.attributes.get("transA") else -1]
    if node.op in ("AveragePool", "MaxPool"):
        return size * prod(node.attributes.get("kernel_shape", [1]))
    read = max((prod(v.shape) for v in inputs if v is not None), default=0)
    return _ELEMENT * max(size, read) * (4 if node.op == "Resize" else 1)
