"""Runtimes called by hand on an engine's graphs: one batch of all samples, all threads inside, NumPy in between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fsfast.backends.quiet import silenced
from fsfast.engine.engine import Engine
from fsfast.kernels import resize_tables

Run = Callable[[np.ndarray], np.ndarray]
SEED = 0


class Runtime:
    """A runtime's graphs of every stage, as its tutorial opens them.

    Args:
        engine: whose graphs.
        backend: "onnxruntime" or "openvino".
        precision: which of the engine's variants.
    """

    def __init__(self, engine: Engine, backend: str, precision: str):
        self._open = {"onnxruntime": _onnxruntime, "openvino": _openvino}[backend]
        self._engine, self._precision = engine, precision
        self._batch = 0
        self._graphs: dict[str, Run] = {}

    def graphs(self, batch: int) -> dict[str, Run]:
        """Return stage → graph for a number of rows; those for another number are dropped."""
        if batch != self._batch:
            self._graphs = {}
            for stage, variants in self._engine.manifest.stages.items():
                variant = variants[self._precision]
                path = str(self._engine.path / variant.file)
                self._graphs[stage] = self._open(path, variant.input, variant.arithmetic, batch)
            self._batch = batch
        return self._graphs


def _onnxruntime(path: str, name: str, arithmetic: str, batch: int) -> Run:
    with silenced():
        import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {name: x})[0]


def _openvino(path: str, name: str, arithmetic: str, batch: int) -> Run:
    with silenced():
        import openvino

    hint = {"float32": "f32", "bfloat16": "bf16"}[arithmetic]
    model = openvino.Core().read_model(path)
    model.reshape([batch, *list(model.inputs[0].partial_shape)[1:]])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda x: compiled(x)[0]


def by_hand(engine: Engine, picture: np.ndarray, backend: str, precision: str) -> Callable[[int], np.ndarray]:
    """Return smoothed features of one picture: number of samples → [L, D].

    Args:
        engine: its graphs and σ.
        picture: [H, W, 3] uint8 on its grid.
        backend: "onnxruntime" or "openvino".
        precision: which of the engine's variants.
    """
    manifest = engine.manifest
    runtime = Runtime(engine, backend, precision)
    image = picture.transpose(2, 0, 1).astype(np.float32)
    sigma = np.float32(255 * manifest.sigma)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (manifest.mean, manifest.std))
    resize = resize_tables(manifest.grid.size, manifest.encoder_size)
    rows, columns = resize.rows.matrix(), resize.columns.matrix()
    step = manifest.denoise if "purifier" in manifest.stages else None

    def call(n0: int) -> np.ndarray:
        graphs = runtime.graphs(n0)
        noise = np.random.default_rng(SEED).standard_normal((n0, *image.shape), np.float32)
        x = image + sigma * noise
        if step is None:
            pixels = x / np.float32(255)
        else:
            x_t = np.float32(step.scale) * x + np.float32(step.offset)
            x_0 = np.float32(step.a) * x_t - np.float32(step.b) * graphs["purifier"](x_t)
            pixels = rows @ ((np.clip(x_0, -1, 1) + 1) / 2) @ columns.T
        tokens = graphs["encoder"]((pixels - mean) / std)
        if "mapper" in graphs:
            tokens = graphs["mapper"](tokens)
        total = (tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)).sum(0)
        return total / np.linalg.norm(total, axis=-1, keepdims=True)

    return call
