"""Usual forms of ONNX operators, in those that an engine's rules take: padding in numbers, rows that are free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fsfast.engine.operators import Value

# Of axes, each group one axis of a view.
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Known:
    """A tensor that does not depend on the input.

    Attributes:
        name: of the tensor.
        arrays: its values, one array per number of rows.
    """

    name: str
    arrays: tuple[np.ndarray, ...]

    @property
    def constant(self) -> bool:
        """Whether it is the same for all numbers of rows."""
        first = self.arrays[0]
        return all(a is first or (a.shape == first.shape and np.array_equal(a, first)) for a in self.arrays)

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Known:
        """Return it under the same name with other values."""
        return Known(self.name, tuple(map(change, self.arrays)))


@dataclass(frozen=True)
class Made:
    """A tensor that is computed from the input.

    Attributes:
        name: of the tensor in the new graph.
        values: what the engine's rules know of it, one per number of rows.
        view: where it is not None, the tensor is one of this one's axes in groups, see `export.onnx_views`.
    """

    name: str
    values: tuple[Value, ...]
    view: Groups | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Its shape, per number of rows."""
        if self.view is None:
            return [value.shape for value in self.values]
        return [tuple(prod(value.shape[a] for a in group) for group in self.view) for value in self.values]


@dataclass
class Form:
    """A node before it is added to the new graph; a rule of ADAPTED changes it.

    Attributes:
        op: its operator.
        inputs: its tensors, None for one that is left out.
        attributes: name → value.
        output: the name of what it makes.
        counts: the numbers of rows that the graph is walked with.
        batch: the number of rows that the file is written for, None where it is free.
    """

    op: str
    inputs: list[Known | Made | None]
    attributes: dict[str, Any]
    output: str
    counts: tuple[int, ...]
    batch: int | None

    def known(self, place: int) -> Known | None:
        """Return an input if it is known."""
        found = self.inputs[place] if place < len(self.inputs) else None
        return found if isinstance(found, Known) else None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the first input, one per number of rows."""
        x = self.inputs[0]
        return (
            [v.shape for v in x.values] if isinstance(x, Made) else [a.shape for a in x.arrays] if x else []
        )

    def constant(self, what: str, array: np.ndarray) -> Known:
        """Return a new tensor that is the same for all numbers of rows."""
        return Known(f"{self.output}.{what}", (array,) * len(self.counts))

    def with_rows(self, sizes: Known) -> list[list[int]]:
        """Return sizes that begin with a number of blocks of rows, one list per number of rows.

        Raises:
            ValueError: the file is written for a batch of which they hold no whole multiple.
        """
        found = [[int(size) for size in array] for array in sizes.arrays]
        if self.batch is not None and sizes.constant and found[0] and found[0][0] > 0:
            if found[0][0] % self.batch:
                raise ValueError(
                    f"{found[0]} holds no whole number of the {self.batch} rows that the file is for"
                )
            found = [
                [s[0] // self.batch * count, *s[1:]] for s, count in zip(found, self.counts, strict=True)
            ]
        return found


def whole_shapes(form: Form) -> list[list[int]]:
    """Return the shapes that a Reshape with known sizes makes, per number of rows.

    Raises:
        ValueError: they do not hold as many elements.
    """
    sizes = form.known(1)
    assert sizes is not None
    copied = not form.attributes.get("allowzero", 0)
    wholes = []
    for target, shape in zip(form.with_rows(sizes), form.shapes, strict=True):
        whole = [shape[i] if d == 0 and copied and i < len(shape) else d for i, d in enumerate(target)]
        if whole.count(-1) == 1 and (rest := prod(d for d in whole if d != -1)):
            whole[whole.index(-1)] = prod(shape) // rest
        if prod(whole) != prod(shape):
            raise ValueError(f"{list(shape)} to {whole} would bring rows of the micro-batch together")
        wholes.append(whole)
    return wholes


def _reshape(form: Form) -> None:
    """Give every size in numbers but that of the rows."""
    if not isinstance(form.inputs[0], Made) or form.known(1) is None:
        return
    first, *others = whole_shapes(form)
    form.attributes.pop("allowzero", None)
    if any(other[1:] != first[1:] for other in others):
        raise ValueError(f"{list(form.shapes[0])} to {first} would bring rows of the micro-batch together")
    free = any(other != first for other in others)
    form.inputs[1] = form.constant("shape", np.array([-1 if free else first[0], *first[1:]], np.int64))


def _expand(form: Form) -> None:
    """Leave the rows as many as they are."""
    x, sizes = form.inputs[0], form.known(1)
    if isinstance(x, Made) and sizes is not None and len(sizes.arrays[0]) == len(form.shapes[0]):
        if form.batch is None and not sizes.constant:
            return
        form.inputs[1] = sizes.changed(lambda a: np.array([1, *a[1:]]))


def _resize(form: Form) -> None:
    sizes = form.known(3)
    if sizes is not None and sizes.arrays[0].size:
        form.inputs[3] = Known(sizes.name, tuple(np.array(s, np.int64) for s in form.with_rows(sizes)))


def _concat(form: Form) -> None:
    """Repeat constants, as class tokens are, for every row."""
    for place, x in enumerate(form.inputs):
        if not isinstance(x, Known) or not x.constant or not x.arrays[0].ndim:
            continue
        base = x.arrays[0][:1]
        if x.arrays[0].shape[0] in (1, form.batch) and np.array_equal(
            x.arrays[0], np.broadcast_to(base, x.arrays[0].shape)
        ):
            repeated = (np.broadcast_to(base, (count, *base.shape[1:])) for count in form.counts)
            form.inputs[place] = Known(x.name, tuple(repeated))


def _gather(form: Form) -> None:
    """Every element of all rows in its order, as exporters write as_strided, is a Reshape."""
    places = form.known(1)
    if form.attributes.get("axis", 0) or places is None or not places.arrays[0].ndim:
        return
    shapes = form.shapes
    wanted = form.batch or form.counts[0]
    first = places.arrays[0]
    if any(len(shape) != 1 for shape in shapes) or first.size * form.counts[0] != shapes[0][0] * wanted:
        return
    if all(np.array_equal(a.reshape(-1), np.arange(a.size)) for a in places.arrays):
        form.op, form.attributes = "Reshape", {}
        form.inputs[1] = form.constant("sizes", np.array([-1, *first.shape[1:]], np.int64))


def _clip(form: Form) -> None:
    for place in (1, 2):
        limit = form.known(place)
        if limit is not None and limit.arrays[0].size == 1:
            form.inputs[place] = limit.changed(lambda a: a.reshape(()))


def _pow(form: Form) -> None:
    exponent = form.known(1)
    if exponent is not None:
        form.inputs[1] = exponent.changed(lambda a: a.astype(np.float32))


def _squeeze(form: Form) -> None:
    if len(form.inputs) < 2:
        # Never the rows.
        axes = [i for i, size in enumerate(form.shapes[0]) if i and size == 1]
        form.inputs.append(form.constant("axes", np.array(axes, np.int64)))


def _window(form: Form) -> None:
    """Write padding in numbers, and leave out a rounding that changes nothing."""
    sizes = form.shapes[0][2:]
    kernel = form.attributes.get("kernel_shape")
    if form.op == "Conv":
        weights = form.inputs[1]
        assert weights is not None
        shape = weights.arrays[0].shape if isinstance(weights, Known) else weights.values[0].shape
        kernel = shape[2:]
    ones = [1] * len(sizes)
    strides, dilations = (form.attributes.get(name) or ones for name in ("strides", "dilations"))
    reaches = [(k - 1) * d + 1 for k, d in zip(kernel or ones, dilations, strict=True)]
    padding = form.attributes.pop("auto_pad", "NOTSET")
    if padding in ("SAME_UPPER", "SAME_LOWER"):
        missing = [
            max((-(-size // stride) - 1) * stride + reach - size, 0)
            for size, stride, reach in zip(sizes, strides, reaches, strict=True)
        ]
        less, more = [m // 2 for m in missing], [m - m // 2 for m in missing]
        form.attributes["pads"] = [*less, *more] if padding == "SAME_UPPER" else [*more, *less]
    pads = form.attributes.get("pads") or [0, 0] * len(sizes)
    left = [
        (size + pads[i] + pads[i + len(sizes)] - reach) % stride
        for i, (size, stride, reach) in enumerate(zip(sizes, strides, reaches, strict=True))
    ]
    if not any(left):
        form.attributes.pop("ceil_mode", None)


# Operator → what changes its form before the engine's rules see it.
ADAPTED: dict[str, Callable[[Form], None]] = {
    "AveragePool": _window,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _window,
    "Expand": _expand,
    "Gather": _gather,
    "MaxPool": _window,
    "Pow": _pow,
    "Reshape": _reshape,
    "Resize": _resize,
    "Squeeze": _squeeze,
}
