"""What the networks see in production: noisy samples of given images, stage by stage, and the ranges of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.engine.chain import Chain
from fsfast.engine.engine import Engine
from fsfast.images.grid import to_grid_image
from fsfast.kernels.types import Rows
from fsfast.machine import available_threads
from fsfast.runtime.sampling import Stream

Run = Callable[[np.ndarray], np.ndarray]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def load_images(folder: Path, engine: Engine, count: int) -> list[np.ndarray]:
    """Return up to `count` pictures of a folder on the engine's grid, [H, W, 3] uint8, in the order of their names.

    Raises:
        ValueError: the folder has no pictures.
        ImageError: one cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())[:count]
    if not paths:
        raise ValueError(
            f"wanted a folder of pictures ({', '.join(sorted(_SUFFIXES))}), got {str(folder)!r}, which has none"
        )
    return [to_grid_image(str(path), engine.manifest.grid).pixels for path in paths]


class Samples:
    """Noisy samples of pictures on their way through the float32 stages.

    Args:
        engine: whose σ, and whose stages.
        images: [H, W, 3] uint8 each; taken in turn.
        count: samples.
        seed: of their noise.
    """

    def __init__(self, engine: Engine, images: Sequence[np.ndarray], count: int, seed: int):
        self._chain = Chain.of_engine(engine, purifier=engine.manifest.denoise is not None)
        rows = (
            Rows(np.zeros(1, np.int32), np.array([seed], np.uint64), np.array([i], np.uint32))
            for i in range(count)
        )
        self.inputs = [
            self._chain.noisy(images[i % len(images)][None], row, Stream.CALIBRATION)
            for i, row in enumerate(rows)
        ]

    def passed_on(self, stage: str, outputs: Sequence[np.ndarray]) -> None:
        """Make the outputs of a stage the inputs of the next one."""
        pairs = zip(self.inputs, outputs, strict=True)
        self.inputs = [self._chain.passed_on(stage, x, y) for x, y in pairs]


def side_by_side(run: Callable[[np.ndarray], Any], inputs: Iterable[np.ndarray]) -> Iterator[Any]:
    """Run inputs on all processors, one thread each: sums do not depend on the number of threads."""
    with ThreadPoolExecutor(available_threads()) as team:
        yield from team.map(run, inputs)


def activation_ranges(
    model: onnx.ModelProto, weights: bytes | bytearray, names: Sequence[str], inputs: Sequence[np.ndarray]
) -> tuple[dict[str, tuple[float, float]], list[np.ndarray]]:
    """Return the smallest and largest value of activations over all inputs, and the outputs of the graph.

    Args:
        model: a float32 graph.
        weights: content of the file that its external data points into.
        names: of the activations.
        inputs: [1, …] float32 each.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    # The extremes are taken inside the graph, so that no activation has to leave it.
    for name in names:
        for op_type in ("ReduceMin", "ReduceMax"):
            output = f"{name}.{op_type}"
            watched.graph.node.append(helper.make_node(op_type, [name], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    lows, highs, outputs = np.full(len(names), np.inf), np.full(len(names), -np.inf), []
    for output, *extremes in run_all(watched, weights, inputs):
        outputs.append(output)
        lows = np.minimum(lows, np.array(extremes[0::2], np.float64))
        highs = np.maximum(highs, np.array(extremes[1::2], np.float64))
    return {name: (float(a), float(b)) for name, a, b in zip(names, lows, highs, strict=True)}, outputs


def run_all(
    model: onnx.ModelProto, weights: bytes | bytearray, inputs: Sequence[np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """Yield all outputs of a float32 graph for each input."""
    session = open_session(model.SerializeToString(), weights)
    entry = session.get_inputs()[0].name
    found: Iterator[list[np.ndarray]] = side_by_side(lambda x: session.run(None, {entry: x}), inputs)
    return found
