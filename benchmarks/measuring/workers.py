"""Techniques as processes: in turn, so that changes of the machine meet all alike, or one after the other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measuring.harness import Timing

# Runtimes' threads go on waiting actively for a while after a run.
_PAUSE_S = 0.25


@dataclass(frozen=True)
class Outcome:
    """What a technique did.

    Attributes:
        timing: of one call.
        memory_mb: the most memory that its process held so far, MB of 10⁶ bytes.
        features: [L, D].
    """

    timing: Timing
    memory_mb: float
    features: np.ndarray


class Worker:
    """A technique in a process.

    Args:
        name: as `benchmarks.cpu.techniques.open_technique` knows it.
        engine: directory.
    """

    def __init__(self, name: str, engine: str):
        self._folder = tempfile.TemporaryDirectory()
        self._features = Path(self._folder.name) / "features.npy"
        command = [sys.executable, "-m", "benchmarks.cpu.techniques", name, engine, str(self._features)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.name = name
        self._times: list[float] = []
        self._memory_mb = 0.0

    def call(self, n0: int) -> None:
        """Compute features of n0 samples once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{n0}\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the technique {self.name!r} ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        self._times.append(answer["seconds"])
        self._memory_mb = answer["memory_mb"]

    def warm_up(self, n0: int) -> None:
        """Compute features of n0 samples without counting it."""
        self.call(n0)
        self._times.clear()

    def outcome(self) -> Outcome:
        """Return what it did since it warmed up."""
        timing = Timing(*map(float, np.percentile(self._times, (20, 50, 80))))
        return Outcome(timing, self._memory_mb, np.load(self._features))

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._folder.cleanup()


def race(names: Sequence[str], engine: str, n0: int, runs: int) -> dict[str, Outcome]:
    """Measure techniques on one image: all are loaded first and run in turn.

    Args:
        names: of the techniques.
        engine: directory.
        n0: samples per call.
        runs: calls of each.
    """
    with ExitStack() as stack:
        workers = [_opened(stack, name, engine) for name in names]
        for worker in workers:
            worker.warm_up(n0)
        for _ in range(runs):
            for worker in workers:
                time.sleep(_PAUSE_S)
                worker.call(n0)
        return {worker.name: worker.outcome() for worker in workers}


def one_by_one(names: Sequence[str], engine: str, runs: Mapping[int, int]) -> dict[int, dict[str, Outcome]]:
    """Measure techniques one after the other, which needs the memory of one only.

    Args:
        names: of the techniques.
        engine: directory.
        runs: number of samples → calls of each technique.

    Returns:
        number of samples → technique → what it did.
    """
    outcomes: dict[int, dict[str, Outcome]] = {n0: {} for n0 in runs}
    for name in names:
        with ExitStack() as stack:
            worker = _opened(stack, name, engine)
            for n0, count in runs.items():
                worker.warm_up(n0)
                for _ in range(count):
                    worker.call(n0)
                outcomes[n0][name] = worker.outcome()
    return outcomes


def _opened(stack: ExitStack, name: str, engine: str) -> Worker:
    worker = Worker(name, engine)
    stack.callback(worker.close)
    return worker
