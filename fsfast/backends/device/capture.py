"""A fixed sequence of kernels on fixed memory: captured once as a CUDA graph, called as it is elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsfast.backends.device.lane import Lane
from fsfast.errors import EngineError

# Libraries choose and load their kernels in the first runs.
_WARM_UP = 2


class Replay:
    """`function(x)` for one x that is overwritten between calls.

    Args:
        function: launches on the current stream, with shapes that never change.
        x: its input, with any values; a CUDA graph reads this memory at every call.
        lane: where the calls happen.
        capture: whether a CUDA graph can hold the launches; never on a CPU.

    Raises:
        EngineError: called again, or captured, the function gives other bits.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, lane: Lane, *, capture: bool):
        self._function, self._x = function, x
        self._graph: torch.cuda.CUDAGraph | None = None
        with lane.current():
            for _ in range(_WARM_UP):
                # Before anything is captured: afterwards the graph keeps memory for a whole micro-batch.
                wanted = function(x).clone()
            if capture and lane.stream is not None:
                self._capture(lane)
            if not all(_same_bits(self(), wanted) for _ in range(2)):
                raise EngineError(
                    "the captured networks give other bits than the networks; use another precision or back end"
                )

    def _capture(self, lane: Lane) -> None:
        lane.wait()
        # Workspaces of matrix products are then taken from the graph's own memory: whoever clears them later, as
        # torch.compile does for its graphs, cannot take them away from this one.
        torch._C._cuda_clearCublasWorkspaces()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the GPU meanwhile.
        with torch.cuda.graph(graph, stream=lane.stream, capture_error_mode="thread_local"):
            self._out = self._function(self._x)
        self._graph = graph

    def __call__(self) -> Tensor:
        """Return `function(x)`; from a graph always the same memory, overwritten by the next call on the stream."""
        if self._graph is None:
            return self._function(self._x)
        self._graph.replay()
        return self._out


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors are equal, NaNs included."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
