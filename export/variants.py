"""How far a stage at a reduced precision lies from float32, on every back end that can run it here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fsfast.backends.cpu import BACKENDS, installed, load_backend
from fsfast.errors import BackendUnavailable
from fsfast.installation import pip_install_extras
from fsfast.machine import available_threads, processor

from .calibration import Run, side_by_side

# What a precision computes in, apart from its 8-bit products.
ARITHMETIC = {"float32": "float32", "bfloat16": "bfloat16", "int8": "float32", "int8+bfloat16": "bfloat16"}
# Other back ends and processors round otherwise; a wrong graph is off by far more.
_MARGIN = 2.0
_SMALLEST = 1e-4


@dataclass(frozen=True)
class Measured:
    """The worst over samples and back ends.

    Attributes:
        deviation: largest deviation relative to the largest magnitude of the float32 output.
        max_abs: largest deviation.
        cosine: smallest cosine between the two outputs of a sample.
        backends: who was asked.
    """

    deviation: float
    max_abs: float
    cosine: float
    backends: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """What the self-test allows: twice the deviation, rounded up to two digits."""
        value = min(max(_MARGIN * self.deviation, _SMALLEST), 1.0)
        unit = 10.0 ** (math.floor(math.log10(value)) - 1)
        return min(float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}"), 1.0)

    def fields(self) -> dict[str, Any]:
        """Return what the manifest's variant says of it."""
        parity = {"batch": 1, "max_abs": self.max_abs, "cosine": self.cosine}
        return {"parity": [parity], "tolerance": self.tolerance}


def backends_for(precision: str) -> tuple[str, ...]:
    """Return the installed back ends that compute as a precision says on this processor."""
    found = []
    for name in BACKENDS:
        if name in installed():
            try:
                backend = load_backend(name)
            except BackendUnavailable:
                continue
            exact = backend.exact_8_bit_products() or not precision.startswith("int8")
            if exact and ARITHMETIC[precision] in backend.arithmetics():
                found.append(name)
    return tuple(found)


def why_not(precision: str) -> str:
    """Return why no back end here computes as a precision says, and what would help."""
    if "openvino" not in installed():
        return f"no back end here computes in {ARITHMETIC[precision]}: {pip_install_extras('openvino')}"
    return (
        f"{processor()} does not compute in {ARITHMETIC[precision]} (for bfloat16 it takes AVX512_BF16 or AMX): add it "
        "on a processor that does"
    )


def measure_variant(
    graph: bytes,
    weights: bytearray,
    precision: str,
    inputs: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> Measured:
    """Compare a graph with float32 outputs.

    Args:
        graph: the variant's graph.
        weights: content of the file that its external data points into.
        precision: of ARITHMETIC.
        inputs, wanted: [1, …] float32 each.

    Raises:
        BackendUnavailable: no back end here can run it.
        RuntimeError: one that should cannot.
    """
    names = backends_for(precision)
    if not names:
        raise BackendUnavailable(why_not(precision))
    rows = []
    for name in names:
        run = _OPEN[name](graph, weights, ARITHMETIC[precision], wanted[0])
        for got, right in zip(side_by_side(run, inputs), wanted, strict=True):
            rows.append(_compare(np.asarray(got, np.float64), right.astype(np.float64)))
    deviation, max_abs, cosine = np.array(rows).T
    return Measured(float(deviation.max()), float(max_abs.max()), float(cosine.min()), names)


def _compare(got: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    largest = float(np.abs(got - wanted).max())
    norms = float(np.linalg.norm(got) * np.linalg.norm(wanted))
    cosine = float((got * wanted).sum()) / max(norms, 1e-300)
    return largest / max(float(np.abs(wanted).max()), 1e-30), largest, cosine


def _open_onnxruntime(graph: bytes, weights: bytearray, arithmetic: str, like: np.ndarray) -> Run:
    from fsfast.backends.onnxruntime.cpu import open_session

    session = open_session(graph, weights)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _open_openvino(graph: bytes, weights: bytearray, arithmetic: str, like: np.ndarray) -> Run:
    from fsfast.backends.openvino import OpenVinoGraph, compile_model, read_model

    threads = available_threads()
    compiled = compile_model(read_model(graph, weights), arithmetic, 1, threads)
    opened = OpenVinoGraph(compiled, threads)

    def run(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(like)
        opened.run(np.ascontiguousarray(x), out)
        return out

    return run


_OPEN: dict[str, Callable[[bytes, bytearray, str, np.ndarray], Run]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
