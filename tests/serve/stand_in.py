"""A function that is computed step by step: it looks ahead as a CPU's does, and takes a step only when it may."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace

import numpy as np

from fsfast.images.grid import GridImage
from fsfast.kernels.types import FeatureSums
from fsfast.runtime.function import served

DIM = 8


def sample(seed: int, number: int) -> np.ndarray:
    """Return the feature of one noisy sample, [DIM] float64."""
    return np.random.default_rng([int(seed), int(number)]).standard_normal(DIM)


def wanted(seed: int, n0: int) -> np.ndarray:
    """Return the direction of one image's features, [1, 1, DIM] float32."""
    sums = FeatureSums.zeros(1, 1, DIM)
    for number in range(n0):
        sums.unit[0, 0] += sample(seed, number)
        sums.norm[0, 0] += 1
        sums.count[0] += 1
    return served(sums, n0).unit


def image() -> GridImage:
    return GridImage(np.zeros((2, 2, 3), np.uint8), None, {})


class Steps:
    """A pipeline whose micro-batches are computed one by one.

    Attributes:
        streams: of each micro-batch that was computed.
        rows: [M] seeds of each; 0 where padded.
    """

    times_steps = False
    device = "cpu"
    noise = None

    def __init__(self, micro_batch: int, ahead: int) -> None:
        self.micro_batch = micro_batch
        self.ahead = ahead
        self.streams: list[int] = []
        self.rows: list[np.ndarray] = []
        self.fault: BaseException | None = None
        self._may = threading.Condition()
        self._steps = 0

    @property
    def done(self) -> int:
        return len(self.streams)

    def step(self, count: int) -> None:
        """Let so many micro-batches be computed."""
        with self._may:
            self._steps += count
            self._may.notify()

    def run(self, images, rows, stream, sums, *, scores=None, advance=None, seconds=None):
        plan, pending, done = iter(rows), deque(), 0
        while True:
            while len(pending) < self.ahead and (row := next(plan, None)) is not None:
                pending.append(row)
            if not pending:
                return
            with self._may:
                self._may.wait_for(lambda: self._steps)
                self._steps -= 1
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            row = pending.popleft()
            self.streams.append(int(stream))
            self.rows.append(np.where(row.image >= 0, row.seed, 0))
            for place, seed, number in zip(row.image, row.seed, row.sample, strict=True):
                if place >= 0:
                    sums.unit[place, 0] += sample(seed, number)
                    sums.norm[place, 0] += 1
                    sums.count[place] += 1
            if scores is not None:
                scores.values[done : done + self.micro_batch] = row.sample
            done += self.micro_batch
            if advance:
                advance(self.micro_batch)


def function(n0: int = 4, micro_batch: int = 1, ahead: int = 2) -> SimpleNamespace:
    """Return what a Scheduler takes for a function."""
    manifest = SimpleNamespace(n0=n0, tokens=1, dim=DIM, grid=SimpleNamespace(size=(2, 2)))
    return SimpleNamespace(manifest=manifest, pipeline=Steps(micro_batch, ahead), keeps_tensors=False)
