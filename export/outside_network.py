"""An encoder from outside: a network to compare with, and the graph that is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    # Training knows networks, and needs no onnx.
    from .graph import ExportedGraph

# The names of an encoder's input and output in an engine.
ENDS = ("pixels", "tokens")


class OutsideEncoder(nn.Module):
    """What an encoder from outside computes, by its own means: [M, 3, H, W] float32 → [M, L, D].

    Args:
        original: what was given, with an output in some layout.
        layout: of export.outside.LAYOUTS.
        graph: the same as an engine's graph.
    """

    def __init__(self, original: Callable[[Tensor], Tensor], layout: str, graph: ExportedGraph) -> None:
        super().__init__()
        # Not a part of this module: a graph's weights are its own.
        self.original = (original,)
        self.layout, self.graph = layout, graph

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the original's features."""
        return as_tokens(self.original[0](pixels), self.layout)


def as_tokens(output: Tensor, layout: str) -> Tensor:
    """Return an output in one of export.outside.LAYOUTS as [M, L, D]."""
    if layout == "pooled":
        return output.reshape(len(output), 1, -1)
    if layout == "map":
        return output.flatten(2).transpose(1, 2)
    return output.flatten(1, -2)


def in_batches(run: Callable[[np.ndarray], np.ndarray], batch: int | None) -> Callable[[Tensor], Tensor]:
    """Return `run` for any number of rows where it takes arrays of `batch` rows; None: it takes any number, too."""

    def whole(pixels: Tensor) -> Tensor:
        x = pixels.numpy()
        step = batch or len(x)
        filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % step, 0)])
        parts = [run(filled[i : i + step]) for i in range(0, len(filled), step)]
        return torch.from_numpy(np.concatenate(parts)[: len(x)])

    return whole
