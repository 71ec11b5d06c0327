"""One stage of an engine at reduced precisions: its 8-bit graph, and how far every variant lies from float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from fsfast.backends.selftest import load_golden
from fsfast.engine.engine import Engine
from fsfast.engine.onnx_arrays import stored_arrays
from fsfast.machine import sums_8_bit_products_exactly

from .calibration import Samples, activation_ranges, run_all
from .equalise import equalise, normalisations, watch_channels
from .graph import ExportedGraph
from .half import widened
from .qdq import products, quantise
from .variants import Measured, backends_for, measure_variant
from .weights import in_memory

PRECISIONS = ("bfloat16", "int8", "int8+bfloat16")


@dataclass(frozen=True)
class Options:
    """What to make of an engine.

    Attributes:
        precisions: some of PRECISIONS; None: all that this processor can measure.
        stages: the stages that may become int8; None: all.
        samples: noisy samples that calibrate; a quarter as many, others, measure.
        accept: smallest cosine to float32 with which a stage may become int8.
        weight_bits: 7 or 8, of the int8 weights; None: 8 where this processor adds their products fast and exactly,
            else 7.
    """

    precisions: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None
    samples: int = 64
    accept: float = 0.999
    weight_bits: int | None = None

    def resolved(self) -> Settled:
        """Return the options with what this processor decides written out."""
        able = tuple(p for p in PRECISIONS if backends_for(p))
        bits = 8 if sums_8_bit_products_exactly() else 7
        return Settled(
            able if self.precisions is None else self.precisions,
            self.stages,
            self.samples,
            self.accept,
            bits if self.weight_bits is None else self.weight_bits,
        )


@dataclass(frozen=True)
class Settled:
    """Options of which none is open; every field as in `Options`."""

    precisions: tuple[str, ...]
    stages: tuple[str, ...] | None
    samples: int
    accept: float
    weight_bits: int

    def eights(self, stage: str) -> tuple[str, ...]:
        """Return the precisions for which a stage may become int8."""
        may = self.stages is None or stage in self.stages
        return tuple(p for p in self.precisions if p != "bfloat16") if may else ()


@dataclass(frozen=True)
class Reduced:
    """What became of a stage.

    Attributes:
        measured: precision → deviation from float32.
        int8: the graph of the int8 precisions; None: the float32 graph stays.
        refused: the cosine for which an int8 graph was not taken; None: it was, or was not asked for.
    """

    measured: dict[str, Measured]
    int8: ExportedGraph | None = None
    refused: float | None = None

    @property
    def worst(self) -> float:
        """The smallest cosine to float32."""
        return min(item.cosine for item in self.measured.values())


@dataclass(frozen=True)
class _Yardstick:
    """Measures variants of a stage against its float32 graph.

    Attributes:
        stage: its name.
        inputs, wanted: what goes in, and what float32 makes of it.
        report: receives one line per variant.
    """

    stage: str
    inputs: list[np.ndarray]
    wanted: list[np.ndarray]
    report: Callable[[str], None]

    def measured(self, of: tuple[bytes, bytearray], precision: str, what: str) -> Measured:
        """Return how far a graph with its weights lies from float32."""
        found = measure_variant(*of, precision, self.inputs, self.wanted)
        self.report(
            f"{self.stage}, {precision} ({what}; {', '.join(found.backends)}): deviation {found.deviation:.1e}, "
            f"cosine {found.cosine:.6f}"
        )
        return found


def reduce_stage(
    engine: Engine,
    stage: str,
    options: Settled,
    calibration: Samples,
    check: Samples,
    report: Callable[[str], None],
) -> Reduced:
    """Make and measure the variants of a stage, and move both sets of samples on to the next one.

    Args:
        engine: the float32 engine.
        stage: of its stages.
        options: what to make.
        calibration: samples that decide the scales.
        check: samples that the variants are measured on.
        report: receives one line per precision.
    """
    stored = (
        engine.graph(stage, "float32"),
        engine.buffer(engine.manifest.stages[stage]["float32"].weights),
    )
    graph, weights = widened(*stored)
    model = onnx.load_from_string(graph)
    _, outputs = activation_ranges(model, weights, [], calibration.inputs)
    _, wanted = activation_ranges(model, weights, [], check.inputs)
    # The stored input counts, since its deviation is what a self-test sees.
    x, y = load_golden(engine, [stage], "float32")[stage]
    yardstick = _Yardstick(stage, [*check.inputs, x], [*wanted, y], report)
    reduced = _taken(_best_int8(model, weights, calibration, options, yardstick), options, yardstick)
    for precision in options.precisions:
        if precision not in reduced.measured:
            found = yardstick.measured(stored, precision, "float32 graph")
            reduced.measured[precision] = found
    calibration.passed_on(stage, outputs)
    check.passed_on(stage, wanted)
    return reduced


def _best_int8(
    model: onnx.ModelProto, weights: bytearray, calibration: Samples, options: Settled, yardstick: _Yardstick
) -> Reduced | None:
    """Return the 8-bit graph that lies nearest to float32; None where there is nothing to make."""
    best = None
    eights = options.eights(yardstick.stage)
    names = sorted({product.activation for product in products(model)}) if eights else []
    if not names:
        return None
    for how, graph in _int8(model, weights, names, calibration, options.weight_bits):
        packed, what = in_memory(graph), f"{options.weight_bits}-bit weights, {how}"
        found = Reduced({p: yardstick.measured(packed, p, what) for p in eights}, graph)
        if best is None or found.worst > best.worst:
            best = found
    return best


def _taken(best: Reduced | None, options: Settled, yardstick: _Yardstick) -> Reduced:
    """Return the 8-bit graph if it is near enough, else nothing, and say so."""
    if best is None:
        return Reduced({})
    if best.worst >= options.accept:
        return best
    yardstick.report(
        f"{yardstick.stage}: its float32 graph stays, since a cosine of {best.worst:.6f} is below {options.accept}"
    )
    return Reduced({}, refused=best.worst)


def _int8(
    model: onnx.ModelProto, weights: bytearray, names: list[str], calibration: Samples, weight_bits: int
) -> Iterator[tuple[str, ExportedGraph]]:
    """Yield 8-bit graphs of a float32 graph: as it is, and with its channels made alike where it can be.

    Neither is better for all networks: with channels far larger than the rest the second one, otherwise often the
    first.
    """
    values = stored_arrays(model.SerializeToString(), weights)
    ranges, _ = activation_ranges(model, weights, names, calibration.inputs)
    yield "as it is", quantise(model, values, ranges, weight_bits)
    if not (found := normalisations(model)):
        return
    outputs, sizes = [item.output for item in found], [len(values[item.weight]) for item in found]
    largest = [np.zeros(size) for size in sizes]
    for _, *channels in run_all(watch_channels(model, outputs, sizes), weights, calibration.inputs):
        largest = [np.maximum(a, b) for a, b in zip(largest, channels, strict=True)]
    alike = equalise(model, values, dict(zip(outputs, largest, strict=True)))
    graph, content = in_memory(alike)
    ranges, _ = activation_ranges(onnx.load_from_string(graph), content, names, calibration.inputs)
    yield "channels alike", quantise(alike.model, alike.weights, ranges, weight_bits)
