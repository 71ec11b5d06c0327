"""A pipeline for certification on a served engine: each of its runs yields to serving, and can be cancelled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future

import numpy as np

from fsfast.kernels.types import FeatureSums, Rows
from fsfast.runtime.pipeline import Advance, Pipeline, Sample, Scores
from fsfast.runtime.sampling import Stream
from fsfast.serve.scheduler import Scheduler, Work

# Is told of scores as they come, on the engine's thread: their stream, [n] float64.
Watch = Callable[[Stream, np.ndarray], object]


class SharedPipeline:
    """As `fsfast.runtime.pipeline.Pipeline`, for one request; its calls wait for their turn.

    Args:
        pipeline: the served engine's.
        scheduler: that runs it.
        client: who asks.
        watch: is told of scores; None: nobody.
    """

    times_steps = False

    def __init__(
        self, pipeline: Pipeline, scheduler: Scheduler, client: str, watch: Watch | None = None
    ) -> None:
        self.device = pipeline.device
        self.micro_batch = pipeline.micro_batch
        self.noise = pipeline.noise
        self.closed = False
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._client = client
        self._watch = watch
        self._running: Future[None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the run that waits, and all that follow, with CancelledError."""
        self._cancelled = True
        if self._running is not None:
            self._running.cancel()

    def check(self, _: float = 0.0) -> None:
        """Raise CancelledError after `cancel`: a progress function, for whoever does not run through this."""
        if self._cancelled:
            raise CancelledError

    def run(
        self,
        images: np.ndarray,
        rows: Iterable[Rows],
        stream: Stream,
        sums: FeatureSums,
        *,
        scores: Scores | None = None,
        advance: Advance | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        """As `Pipeline.run`; raises CancelledError after `cancel`."""
        if seconds is not None:
            raise ValueError("seconds: the steps of a served engine are not timed one by one")
        plan = iter(rows)
        if self._watch is not None and scores is not None:
            plan, advance = _watched(self._watch, plan, stream, scores, advance)
        work = Work(self._client, images, plan, stream, sums, scores, advance)
        self._running = work.future
        self.check()
        self._scheduler.certify(work)
        work.future.result()

    def clean(self, images: np.ndarray) -> np.ndarray:
        """As `Pipeline.clean`; a row per image, which waits for nobody."""
        return self._pipeline.clean(images)

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """As `Pipeline.sample`; one row, which waits for nobody."""
        return self._pipeline.sample(image, seed, index)

    def close(self) -> None:
        """Leave the engine open: others use it."""


def _watched(
    watch: Watch, rows: Iterator[Rows], stream: Stream, scores: Scores, advance: Advance | None
) -> tuple[Iterator[Rows], Advance]:
    """Return rows, and what is called as they are done, so that `watch` is told of their scores without the padding."""
    sent: deque[int] = deque()
    done = 0

    def counted() -> Iterator[Rows]:
        for row in rows:
            sent.append(int((row.image >= 0).sum()))
            yield row

    def told(count: int) -> None:
        nonlocal done
        watch(stream, scores.values[done : done + sent.popleft()].copy())
        done += count
        if advance is not None:
            advance(count)

    return counted(), told
