"""How far a graph lies from its original on OpenVINO, and whether TensorRT's parser takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fsfast.backends.tensorrt.building import check_parses
from fsfast.backends.tensorrt.library import find_library, new_log
from fsfast.errors import BackendUnavailable, brief

from .parity import Step, deviation


@dataclass(frozen=True)
class Elsewhere:
    """What came of one back end.

    Attributes:
        backend: its name and version.
        parity: as `export.parity.measure` returns it; empty where nothing was run.
        said: what came of it in words where nothing was run.
    """

    backend: str
    parity: tuple[dict[str, float], ...] = ()
    said: str = ""


def elsewhere(graph: bytes, weights: np.ndarray, steps: Mapping[int, Step]) -> list[Elsewhere]:
    """Try a graph on OpenVINO and on a TensorRT's parser, where they are installed.

    Args:
        graph: serialised ONNX graph that `fsfast.engine.graph_check.check_graph` has let pass.
        weights: content of the file that its external data points into.
        steps: batch → (input, the original's output).
    """
    content = bytearray(weights)
    return [*_openvino(graph, content, steps), *_tensorrt(graph, bytes(content))]


def _openvino(graph: bytes, weights: bytearray, steps: Mapping[int, Step]) -> Iterator[Elsewhere]:
    try:
        from fsfast.backends.openvino import OpenVinoGraph, compile_model, read_model, version
    except BackendUnavailable:
        return
    rows = []
    try:
        for batch in sorted({min(steps), max(steps)}):
            x, wanted = steps[batch]
            # Not as `wanted`, whose axes torch may have left in another order.
            got = np.empty(wanted.shape, np.float32)
            OpenVinoGraph(compile_model(read_model(graph, weights), "float32", batch, 1), 1).run(x, got)
            rows.append(deviation(got, wanted))
    except RuntimeError as error:
        yield Elsewhere(f"OpenVINO {version()}", said=f"refuses it: {brief(error)}")
        return
    yield Elsewhere(f"OpenVINO {version()}", tuple(rows))


def _tensorrt(graph: bytes, weights: bytes) -> Iterator[Elsewhere]:
    try:
        library = find_library()
        check_parses(library, new_log(library), graph, weights)
    except BackendUnavailable:
        return
    except ValueError as error:
        yield Elsewhere(str(library), said=brief(error))
        return
    yield Elsewhere(str(library), said="its parser takes the graph")
