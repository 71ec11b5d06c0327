"""How far the exported graphs lie from torch, on the inputs that they meet in production."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from fsfast.backends.onnxruntime.cpu import open_session
from fsfast.engine.chain import Chain
from fsfast.errors import EngineError
from fsfast.kernels.types import Rows


def sample_image(height: int, width: int) -> np.ndarray:
    """Return a smooth colour picture with edges, [H, W, 3] uint8: every export measures on the same one."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [
        0.5 + 0.5 * np.sin(9 * x + 3 * y),
        0.5 + 0.5 * np.cos(7 * y * x + 1),
        ((4 * x + 3 * y) % 1 > 0.5) * 0.8 + 0.1,
    ]
    return np.round(255 * np.stack(channels, axis=-1)).astype(np.uint8)


# Input and torch output of a stage.
Step = tuple[np.ndarray, np.ndarray]


class Steps:
    """Inputs and torch outputs of every stage on noisy samples of one picture, stage by stage.

    Args:
        chain: what stands before and between the networks.
        grid: (height, width) of the smoothing grid.
        batches: numbers of noisy samples.
    """

    def __init__(self, chain: Chain, grid: tuple[int, int], batches: Sequence[int]):
        self._chain = chain
        image = sample_image(*grid)[None]
        self._inputs = {batch: chain.noisy(image, _rows(batch), 0) for batch in batches}

    def step(self, stage: str, module: torch.nn.Module) -> dict[int, Step]:
        """Run the next stage; returns batch → (input, torch output)."""
        steps = {batch: (x, _torch(module, x)) for batch, x in self._inputs.items()}
        self._inputs = {batch: self._chain.passed_on(stage, *step) for batch, step in steps.items()}
        return steps


def _rows(batch: int) -> Rows:
    return Rows(np.zeros(batch, np.int32), np.zeros(batch, np.uint64), np.arange(batch, dtype=np.uint32))


@torch.inference_mode()
def _torch(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    output: np.ndarray = module(torch.from_numpy(x)).numpy()
    return output


def measure(graph: bytes, weights: bytes | np.ndarray, pairs: Iterable[Step]) -> list[dict[str, float]]:
    """Return per (input, torch output) the batch size, the largest deviation and the smallest row cosine.

    Args:
        graph: serialised ONNX graph.
        weights: content of the file that its external data points into.
        pairs: inputs and torch outputs, [M, …] float32.
    """
    session = open_session(graph, weights)
    name = session.get_inputs()[0].name
    rows = []
    for x, wanted in pairs:
        rows.append(deviation(session.run(None, {name: x})[0], wanted))
    return rows


def deviation(got: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return the batch size, the largest deviation and the smallest row cosine of two outputs, [M, …] each."""
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (got, wanted))
    return {"batch": len(got), "max_abs": float(np.abs(a - b).max()), "cosine": float(_cosines(a, b).min())}


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of the rows of [M, n] with [M, n]; 1 where both are zero, 0 where one is."""
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    same = np.where(norms[0] + norms[1] == 0, 1.0, 0.0)
    product = norms[0] * norms[1]
    return np.divide((a * b).sum(1), product, out=same, where=product != 0)


def check_parity(
    stage: str,
    rows: Iterable[dict[str, float]],
    pairs: Iterable[Step],
    tolerance: float,
    original: str = "torch",
) -> None:
    """Refuse a graph that computes something else than torch, or than the original that it was made of.

    Args:
        stage: its name, for the message.
        rows: what `measure` found.
        pairs: what it was given.
        tolerance: allowed deviation relative to the largest magnitude of torch's output; absolute where that is zero.
        original: in the place of torch, for the message.

    Raises:
        EngineError: a deviation is larger, or not a number.
    """
    for row, (_, wanted) in zip(rows, pairs, strict=True):
        scale = float(np.abs(wanted).max())
        allowed = tolerance * (scale or 1.0)
        if math.isfinite(scale) and row["max_abs"] <= allowed:
            continue
        remedy = (
            "install the versions in constraints-dev.txt, and report it if that does not help"
            if math.isfinite(scale)
            else f"{original}'s own output is not finite: choose other weights"
        )
        raise EngineError(
            f"the exported {stage} computes something else than {original} at batch {row['batch']}: wanted a deviation "
            f"of at most {allowed:.1e} ({tolerance:.0e} of the largest output, {scale:.1e}), got "
            f"{row['max_abs']:.1e}, cosine {row['cosine']:.9f}; {remedy}"
        )
