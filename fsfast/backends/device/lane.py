"""A device and the one stream on which everything of an encoder is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor


class Lane:
    """A device and a stream of its own; on a CPU, which rehearses, there is no stream.

    Memory that is allocated under `current` belongs to the stream: it is used again in the stream's order, and nobody
    has to wait for it.

    Args:
        device: "cuda:0", …, or "cpu".
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            # Weights that the caller has just made may still be on their way.
            self.stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def handle(self) -> int:
        """The stream's cudaStream_t; 0 on a CPU."""
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Launch on the stream and its device, without gradients, whatever modes of torch the caller is in."""
        with ExitStack() as stack:
            # An encoder that was opened under inference_mode could not write to its own buffers outside of it.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            if self.stream is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
            yield

    @contextmanager
    def beside_caller(self, given: Tensor) -> Iterator[Callable[[Tensor], None]]:
        """Order the stream after the caller's work on `given`, and the caller's stream after this one.

        Yields what must be called for every tensor that the caller gets.
        """
        if self.stream is None:
            with self.current():
                yield lambda tensor: None
            return
        theirs = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(theirs)
        given.record_stream(self.stream)
        try:
            with self.current():
                yield lambda tensor: tensor.record_stream(theirs)
        finally:
            theirs.wait_stream(self.stream)

    def upload(self, array: np.ndarray) -> Tensor:
        """Send an array to the device without waiting; a CPU tensor shares its memory."""
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self.stream is None:
            return tensor
        with self.current():
            # torch keeps pinned memory until the copies from it are done.
            return tensor.pin_memory().to(self.device, non_blocking=True)

    def read(self, tensor: Tensor) -> np.ndarray:
        """Wait for the stream and copy a tensor to the host."""
        with self.current():
            return tensor.cpu().numpy()

    def wait(self) -> None:
        """Wait for the stream."""
        if self.stream is not None:
            self.stream.synchronize()
