"""Techniques as processes: loaded side by side, run in turn, so that changes of the machine meet all alike."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Timing

# Runtimes' threads go on waiting actively for a while after a run.
_PAUSE_S = 0.25


@dataclass(frozen=True)
class Outcome:
    """What a technique did.

    Attributes:
        timing: of one call.
        memory_mb: the most memory that its process held, MB of 10⁶ bytes.
        load_s: seconds until the first result.
        features: [L, D], of the first call.
    """

    timing: Timing
    memory_mb: float
    load_s: float
    features: np.ndarray


class Worker:
    """A technique in a process.

    Args:
        name: as `benchmarks.techniques.open_technique` knows it.
        engine: directory.
        n0: samples per call.
    """

    def __init__(self, name: str, engine: str, n0: int):
        self._folder = tempfile.TemporaryDirectory()
        self._features = Path(self._folder.name) / "features.npy"
        command = [sys.executable, "-m", "benchmarks.techniques", name, engine, str(n0), str(self._features)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self.name = name
        self.times: list[float] = []
        self.load_s = float(self._answer()["load_s"])

    def run(self) -> None:
        """Call it once."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        self.times.append(float(self._answer()))

    def finish(self) -> Outcome:
        """End the process and return what it did."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        memory = float(self._answer())
        self._process.wait()
        features = np.load(self._features)
        self._folder.cleanup()
        timing = Timing(*map(float, np.percentile(self.times or [self.load_s], (20, 50, 80))))
        return Outcome(timing, memory, self.load_s, features)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the technique {self.name!r} ended with exit code {self._process.wait()}")
        return json.loads(line)


def race(
    names: Sequence[str], engine: str, n0: int, runs: int, *, together: bool = True
) -> dict[str, Outcome]:
    """Measure techniques on one image.

    Args:
        names: of the techniques.
        engine: directory.
        n0: samples per call.
        runs: calls of each.
        together: all are loaded first and run in turn; otherwise one is measured after the other, which needs the
            memory of one only.
    """
    outcomes = {}
    for group in [list(names)] if together else [[name] for name in names]:
        with ExitStack() as stack:
            workers = []
            for name in group:
                workers.append(Worker(name, engine, n0))
                stack.callback(workers[-1].close)
            for _ in range(runs):
                for worker in workers:
                    time.sleep(_PAUSE_S)
                    worker.run()
            outcomes |= {worker.name: worker.finish() for worker in workers}
    return outcomes
