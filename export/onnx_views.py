"""Tensors whose rows are not in front, as torch's own attention has them: views of tensors whose rows are.

A graph may turn its axes, and merge and split them, before it computes on. Such a tensor is kept as another one, whose
axis 0 is the rows, and an order of that one's axes in groups: group by group it is what the file means. What works
along the last axis or element by element works on the other tensor as well; the axes are laid out once the rows are
in front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .onnx_forms import Form, Groups, Known, Made, whole_shapes

_Emit = Callable[[str, Sequence[Known | Made | None], dict[str, Any], Sequence[str]], list[Made]]
_LIKE = (
    "Abs",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Softplus",
)
_LIKE += ("Sqrt", "Tanh")
_BROADCAST = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")
_LAST = ("LayerNormalization", "RMSNormalization", "Softmax")


class Views:
    """What nodes make of views.

    Args:
        emit: adds a node to the new graph: operator, inputs, attributes, names of outputs.
    """

    def __init__(self, emit: _Emit) -> None:
        self._emit = emit

    def turned(self, form: Form) -> Made:
        """Return what a Transpose makes."""
        x = form.inputs[0]
        assert isinstance(x, Made)
        groups = _groups(x)
        perm = form.attributes.get("perm", range(len(groups))[::-1])
        if sorted(perm) != [*range(len(groups))]:
            raise ValueError(f"wanted an order of {len(groups)} axes, got {list(perm)}")
        return self._laid(x, tuple(groups[p] for p in perm), form.output)

    def through(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """Return what a node makes whose inputs are views, or None where it cannot work on them."""
        rules = {"Gather": self._one, "Split": self._part, "Slice": self._part, "Squeeze": self._squeezed}
        rules |= {
            "Unsqueeze": self._unsqueezed,
            "Reshape": self._reshaped,
            "MatMul": self._product,
            "Gemm": self._product,
        }
        rules |= dict.fromkeys(_LIKE + _BROADCAST + _LAST, self._along_last)
        return rules[form.op](form, outputs) if form.op in rules else None

    def _laid(self, x: Made, groups: Groups, name: str) -> Made:
        """Return a view, as a tensor of its own if its rows are in front."""
        held = Made(x.name, x.values)
        if groups[0][:1] != (0,):
            return Made(x.name, x.values, groups)
        return self._arranged(held, [list(group) for group in groups], name)

    def _arranged(self, x: Made, parts: Sequence[Sequence[int]], name: str) -> Made:
        """Return a tensor whose axes are these of another one, in this order, each merged of several."""
        order, shape = [axis for part in parts for axis in part], x.values[0].shape
        merged = any(len(part) != 1 for part in parts)
        if order != sorted(order):
            (x,) = self._emit("Transpose", [x], {"perm": order}, [f"{name}.order" if merged else name])
        if merged:
            sizes = [-1, *(prod(shape[axis] for axis in part) for part in parts[1:])]
            (x,) = self._emit("Reshape", [x, _fixed(f"{name}.sizes", sizes)], {}, [name])
        return x

    def _one(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """One place of an axis."""
        x, place = form.inputs[0], form.known(1)
        if not isinstance(x, Made) or place is None or place.arrays[0].ndim:
            return None
        groups = _groups(x)
        axis = form.attributes.get("axis", 0) % len(groups)
        group, rest = groups[axis], (*groups[:axis], *groups[axis + 1 :])
        if not group:
            return [self._laid(x, rest, outputs[0])]
        if len(group) != 1 or group == (0,):
            return None
        (made,) = self._emit(
            "Gather", [Made(x.name, x.values), place], {"axis": group[0]}, [f"{outputs[0]}.held"]
        )
        return [self._laid(made, _without(rest, group), outputs[0])]

    def _part(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """Several places of an axis."""
        x, axes = form.inputs[0], form.known(3)
        if not isinstance(x, Made) or (form.op == "Slice" and (axes is None or not axes.constant)):
            return None
        groups, inputs, given = _groups(x), [*form.inputs], form.attributes
        named = [int(a) for a in axes.arrays[0]] if axes is not None else [given.get("axis", 0)]
        if any(len(groups[a]) != 1 or groups[a] == (0,) for a in named):
            return None
        places = [groups[a][0] for a in named]
        if axes is not None:
            inputs[3] = form.constant("axes", np.array(places, np.int64))
        else:
            given = {**given, "axis": places[0]}
        made = self._emit(
            form.op, [Made(x.name, x.values), *inputs[1:]], given, [f"{name}.held" for name in outputs]
        )
        return [self._laid(m, groups, name) for m, name in zip(made, outputs, strict=True)]

    def _squeezed(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        x, axes = form.inputs[0], form.known(1)
        if not isinstance(x, Made) or axes is None or not axes.constant:
            return None
        groups = _groups(x)
        gone = {int(a) % len(groups) for a in axes.arrays[0]}
        left = [list(group) for i, group in enumerate(groups) if i not in gone]
        shape = x.values[0].shape
        loose = [axis for i in gone for axis in groups[i]]
        if not left or any(shape[axis] != 1 for axis in loose):
            return None
        # An axis of one element goes with any other.
        left[-1] += loose
        return [self._laid(x, tuple(map(tuple, left)), outputs[0])]

    def _unsqueezed(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        x, axes = form.inputs[0], form.known(1)
        if not isinstance(x, Made) or axes is None or not axes.constant:
            return None
        groups = _groups(x)
        rank = len(groups) + axes.arrays[0].size
        new, rest = {int(a) % rank for a in axes.arrays[0]}, iter(groups)
        return [self._laid(x, tuple(() if i in new else next(rest) for i in range(rank)), outputs[0])]

    def _reshaped(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """Merge axes and split them; rows stay one axis."""
        x = form.inputs[0]
        if not isinstance(x, Made) or form.known(1) is None:
            return None
        shapes = [value.shape for value in x.values]
        queue = deque(
            (axis, tuple(shape[axis] for shape in shapes)) for group in _groups(x) for axis in group
        )
        pieces: list[list[int]] = [[] for _ in shapes[0]]
        groups: list[list[tuple[int, int]]] = []
        for target in zip(*whole_shapes(form), strict=True):
            group: list[tuple[int, int]] = []
            product = (1,) * len(target)
            while product != target:
                if not queue:
                    return None
                axis, size = queue.popleft()
                if any(t % (p * s) for t, p, s in zip(target, product, size, strict=True)):
                    need = {t // p if not t % p else 0 for t, p in zip(target, product, strict=True)}
                    part = need.pop()
                    if need or not part or axis == 0 or size[0] % part:
                        return None
                    queue.appendleft((axis, tuple(s // part for s in size)))
                    size = (part,) * len(size)
                pieces[axis].append(size[0])
                group.append((axis, len(pieces[axis]) - 1))
                product = tuple(p * s for p, s in zip(product, size, strict=True))
            groups.append(group)
        for axis, size in queue:
            pieces[axis].append(size[0])
            groups[-1].append((axis, len(pieces[axis]) - 1))
        first = [sum(map(len, pieces[:axis])) for axis in range(len(pieces))]
        held = Made(x.name, x.values)
        if any(len(sizes) != 1 for sizes in pieces):
            split = [-1, *(size for sizes in pieces[1:] for size in sizes)]
            (held,) = self._emit(
                "Reshape", [held, form.constant("pieces", np.array(split))], {}, [f"{outputs[0]}.held"]
            )
        return [
            self._laid(held, tuple(tuple(first[a] + i for a, i in group) for group in groups), outputs[0])
        ]

    def _along_last(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """Element by element, or along the last axis, with constants that are the same along all others."""
        rank = max(len(_groups(x)) for x in form.inputs if isinstance(x, Made))
        if form.op in _LAST and form.attributes.pop("axis", -1) not in (-1, rank - 1):
            return None
        inputs: list[Known | Made | None] = []
        found: set[tuple[Groups, tuple[int, ...]]] = set()
        for place, x in enumerate(form.inputs):
            if isinstance(x, Made):
                if x.view is None or len(x.view) != rank:
                    return None
                x = self._canonical(x, f"{outputs[0]}.rows{place}")
                found.add((_groups(x), x.values[0].shape))
                x = Made(x.name, x.values)
            elif x is not None:
                if not x.constant or prod(x.arrays[0].shape[:-1]) != 1:
                    return None
                x = x.changed(lambda a: a.reshape(-1) if a.size > 1 else a.reshape(()))
            inputs.append(x)
        if len(found) != 1:
            return None
        ((groups, shape),) = found
        wide = form.op in _LAST or any(isinstance(x, Known) and x.arrays[0].size > 1 for x in inputs)
        if wide and groups[-1] != (len(shape) - 1,):
            return None
        made = self._emit(form.op, inputs, form.attributes, [f"{outputs[0]}.held"])
        return [self._laid(made[0], groups, outputs[0])]

    def _product(self, form: Form, outputs: Sequence[str]) -> list[Made] | None:
        """Products with a constant matrix, along the last axis."""
        x, matrix, bias = form.inputs[0], form.known(1), form.known(2)
        if not isinstance(x, Made) or matrix is None or not matrix.constant or matrix.arrays[0].ndim != 2:
            return None
        if form.attributes.pop("transB", 0):
            matrix = Known(f"{matrix.name}.T", matrix.changed(np.transpose).arrays)
        if form.attributes or (len(form.inputs) > 2 and (bias is None or bias.arrays[0].ndim != 1)):
            return None
        x = self._canonical(x, f"{outputs[0]}.rows")
        groups = _groups(x)
        if groups[-1] != (len(x.values[0].shape) - 1,):
            return None
        (made,) = self._emit("MatMul", [Made(x.name, x.values), matrix], {}, [f"{outputs[0]}.held"])
        if bias is not None:
            (made,) = self._emit("Add", [made, bias], {}, [f"{outputs[0]}.biased"])
        return [self._laid(made, groups, outputs[0])]

    def _canonical(self, x: Made, name: str) -> Made:
        """Return the same view of a tensor that has its rows, then every group as one axis, in their order."""
        parts: list[list[int]] = [[0]]
        groups: list[list[int]] = []
        for group in _groups(x):
            groups.append([])
            last = 0
            for axis in group:
                if axis and not last:
                    parts.append([])
                    groups[-1].append(len(parts) - 1)
                if axis:
                    parts[-1].append(axis)
                else:
                    groups[-1].append(0)
                last = axis
        held = self._arranged(Made(x.name, x.values), parts, name)
        return Made(held.name, held.values, tuple(map(tuple, groups)))


def _groups(x: Made) -> Groups:
    return x.view if x.view is not None else tuple((axis,) for axis in range(len(x.values[0].shape)))


def _without(groups: Sequence[tuple[int, ...]], gone: tuple[int, ...]) -> Groups:
    """Return groups after an axis is gone."""
    return tuple(tuple(axis - (axis > gone[0]) for axis in group) for group in groups)


def _fixed(name: str, sizes: Sequence[int]) -> Known:
    array = np.array(sizes, np.int64)
    return Known(name, (array, array))
