"""The networks as somebody runs them on the device: torch, TensorRT or ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.lane import Lane
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Work
from fsfast.kernels.tensors import FLOATS
from fsfast.kernels.types import Dtype, Layout

# Launches on the current stream: [M, …] in, [M, …] out.
Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stages:
    """Networks that take and give tensors on the device, without waiting for it.

    Attributes:
        run: stage → network.
        version: with the back end's name, names the bits that they compute.
        dtype: of inputs and outputs.
        layout: memory order of the images that they take; "nhwc" is torch's channels_last.
        capturable: whether a CUDA graph can hold their launches.
        plain: the same networks for any number of rows, by which memory is planned; None where a library keeps memory
            of its own.
    """

    run: Mapping[str, Stage]
    version: str
    dtype: Dtype
    layout: Layout
    capturable: bool
    plain: Mapping[str, Stage] | None = None


class GpuBackend(Protocol):
    """Who runs an engine's networks on a GPU."""

    def problems(self) -> list[str]:
        """Return what keeps it from running on a GPU that torch can use, or nothing."""

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the precisions in which it runs an engine, the default first."""

    def rows(self, manifest: Manifest, precision: str) -> tuple[int, int]:
        """Return the smallest and the largest number of rows that the networks take."""

    def tested(self, engine: Engine, precision: str) -> Engine:
        """Return the engine whose tolerances hold in the self-test."""

    def open(self, engine: Engine, work: Work, lane: Lane) -> Stages:
        """Put the networks of some work on the lane's device; launches go to the current stream.

        Raises:
            BackendUnavailable: it cannot run here, or lacks something that the precision wants.
            EngineError: it cannot read or build a network.
        """


class StageGraph:
    """One network as the self-test calls it: arrays in, arrays out; one run at a time, whatever the threads.

    Args:
        stage: the network.
        stages: where it belongs.
        lane: where it runs.
    """

    _lock = threading.Lock()

    def __init__(self, stage: Stage, stages: Stages, lane: Lane):
        self._stage, self._lane = stage, lane
        self._dtype = FLOATS[stages.dtype]
        self._order = torch.channels_last if stages.layout == "nhwc" else torch.contiguous_format

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the network on `x` [M, …] float32 into `out` [M, …] float32."""
        # Two micro-batches at once would need more memory than was planned.
        with self._lock, self._lane.current(), fixed_arithmetic():
            rows = torch.from_numpy(x).to(self._lane.device, self._dtype)
            if rows.ndim == 4:
                rows = rows.contiguous(memory_format=self._order)
            out[...] = self._stage(rows).float().cpu().numpy()
