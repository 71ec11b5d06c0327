"""A fixed sequence of kernels on fixed memory: captured once as a CUDA graph, called as it is on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Libraries choose and load their kernels in the first runs.
_WARM_UP = 2


class Replay:
    """`function(x)` for one x that is overwritten between calls.

    Args:
        function: launches on the current stream, with shapes that never change.
        x: its input; a CUDA graph reads this memory at every call.
        stream: where the calls happen; None on a CPU.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, stream: torch.cuda.Stream | None):
        self._function, self._x = function, x
        self._graph: torch.cuda.CUDAGraph | None = None
        if stream is None:
            return
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(_WARM_UP):
                function(x)
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the GPU meanwhile.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._out = function(x)

    def __call__(self) -> Tensor:
        """Return `function(x)`; on a GPU always the same memory, overwritten by the next call on the stream."""
        if self._graph is None:
            return self._function(self._x)
        self._graph.replay()
        return self._out
