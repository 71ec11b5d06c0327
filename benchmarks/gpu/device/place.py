"""Where a study runs: on the GPU, or rehearsed with small networks on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measuring import harness
from benchmarks.measuring.harness import Timing


@dataclass(frozen=True)
class Place:
    """A device.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal, whose numbers mean nothing.
    """

    device: torch.device

    @classmethod
    def chosen(cls, rehearse: bool) -> Place:
        """Return the GPU, or the CPU for a rehearsal.

        Raises:
            BackendUnavailable: there is no usable GPU.
        """
        from fsfast.backends.device.place import cuda_device

        return cls(torch.device("cpu") if rehearse else cuda_device("cuda"))

    @property
    def rehearsed(self) -> bool:
        """Whether this is only a rehearsal."""
        return self.device.type == "cpu"

    @property
    def name(self) -> str:
        """The GPU's name for folders and files."""
        return "rehearsal" if self.rehearsed else harness.gpu()

    def wait(self) -> None:
        """Wait for the device."""
        if not self.rehearsed:
            torch.cuda.synchronize(self.device)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """torch.compile; in a rehearsal the function itself."""
        return function if self.rehearsed else torch.compile(function, dynamic=False)

    def measure(self, call: Callable[[], object], *, seconds: float = 1.0, runs: int = 7) -> Timing:
        """Time a call from its launch to its end on the device; once in a rehearsal."""

        def whole() -> None:
            call()
            self.wait()

        if self.rehearsed:
            start = time.perf_counter()
            whole()
            return Timing(*[time.perf_counter() - start] * 3)
        return harness.measure(whole, seconds=seconds, runs=runs)

    def memory_mb(self, call: Callable[[], object]) -> float | None:
        """Return the most memory that torch holds during a call, weights included, MB of 10⁶ bytes."""
        if self.rehearsed:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 1e6

    def once(self, call: Callable[[], object]) -> tuple[float, float | None]:
        """Return the seconds of one call that takes long, to its end on the device, and its memory as `memory_mb`."""
        took: list[float] = []

        def timed() -> None:
            start = time.perf_counter()
            call()
            self.wait()
            took.append(time.perf_counter() - start)

        memory = self.memory_mb(timed)
        if not took:
            timed()
        return took[0], memory

    def circumstances(self) -> dict[str, str]:
        """Return what stands in every line of a results file."""
        return harness.circumstances(self.name) | ({} if self.rehearsed else harness.driver())
