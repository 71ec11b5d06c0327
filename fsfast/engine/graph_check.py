"""Whether a graph is a fixed function of its input and of one weights file, and no more, before any library sees it."""

from __future__ import annotations

import struct

from fsfast.budgets import ROW_MEMORY, ROW_WORK
from fsfast.engine.onnx_bytes import external_tensors
from fsfast.engine.onnx_graph import parse_graph
from fsfast.engine.operators import demand_of
from fsfast.errors import brief

# Libraries may run nodes in another order than theirs, in which more is held at once: so many times the budget in all.
_OTHER_ORDER = 16


def check_graph(graph: bytes, weights_file: str, *, rows: int = 1, weights_bytes: int | None = None) -> None:
    """Refuse a graph that `fsfast export` would not write, or that orders too much.

    Args:
        graph: serialised ModelProto.
        weights_file: the only file that external initialisers may name.
        rows: M, as it will be run.
        weights_bytes: size of that file.

    Raises:
        ValueError: as `fsfast.engine.onnx_graph.parse_graph` and `fsfast.engine.operators.demand_of`; an initialiser
            lies in another file, or several in the same place; a row needs more memory or work than the budgets allow.
    """
    try:
        _check(graph, weights_file, rows, weights_bytes)
    except ValueError as error:
        raise ValueError(brief(error)) from None
    # What a graph that was made for it may bring out of NumPy and struct.
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, struct.error) as error:
        raise ValueError(f"the graph is malformed ({type(error).__name__}: {brief(error)})") from None


def _check(graph: bytes, weights_file: str, rows: int, weights_bytes: int | None) -> None:
    tensors = external_tensors(graph)
    for tensor in tensors:
        if tensor.location != weights_file:
            raise ValueError(
                f"initialiser {tensor.name!r} points to weights outside {weights_file}: {tensor.location!r}"
            )
    stored = sum(tensor.length for tensor in tensors)
    if weights_bytes is not None and stored > weights_bytes:
        raise ValueError(
            f"initialisers hold {stored} bytes, their file has {weights_bytes}: it ends too early, or some share "
            "a place"
        )
    demand = demand_of(parse_graph(graph), rows)
    for amount in (demand.peak_bytes, demand.total_bytes / _OTHER_ORDER):
        ROW_MEMORY.check(amount / rows / 1e6, "one row of this graph")
    ROW_WORK.check(demand.products / rows / 1e9, "one row of this graph")
