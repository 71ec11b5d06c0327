"""One thread runs an engine: rows of many requests share its micro-batches, and certification yields to serving."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from fsfast.images.grid import GridImage
from fsfast.kernels.types import FeatureSums, Rows
from fsfast.runtime.function import Function, Served, served
from fsfast.runtime.pipeline import Advance, Scores
from fsfast.runtime.sampling import Stream
from fsfast.runtime.serving import GROUP
from fsfast.serve.errors import EngineFailed, QueueFull, Stopping, TooLarge
from fsfast.serve.turns import Image, Turns

logger = logging.getLogger("fsfast.serve")

# Micro-batches of one certificate before another one's turn.
_TURN = 64


@dataclass
class Counts:
    """What an engine has done since it was opened; written by its thread alone.

    Attributes:
        micro_batches: of serving.
        rows: in them; the rest of a micro-batch is padding.
        images: that were served.
        certified_rows: of certification, pilots and anchors.
        busy: seconds.
        seconds: of each step, where the pipeline knows them.
    """

    micro_batches: int = 0
    rows: int = 0
    images: int = 0
    certified_rows: int = 0
    busy: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Work:
    """One call of `Pipeline.run` that yields to serving; fields as its arguments.

    Attributes:
        client: who asks.
        done: rows that are in the sums.
        future: ends when all are.
    """

    client: str
    images: np.ndarray
    rows: Iterator[Rows]
    stream: Stream
    sums: FeatureSums
    scores: Scores | None
    advance: Advance | None
    done: int = 0
    future: Future[None] = field(default_factory=Future)


class _Places:
    """Pixels and sums of the images that are worked on."""

    def __init__(self, function: Function, count: int) -> None:
        manifest = function.manifest
        self.pixels = np.zeros((count, *manifest.grid.size, 3), np.uint8)
        self.sums = FeatureSums.zeros(count, manifest.tokens, manifest.dim)
        self.free = list(range(count))
        self.taken: dict[int, Image] = {}
        self.count = count

    def put(self, image: Image) -> None:
        """Give an image a place."""
        image.place = place = self.free.pop()
        self.taken[place] = image
        self.pixels[place] = image.item.pixels
        for sums in (self.sums.unit, self.sums.norm, self.sums.count):
            sums[place] = 0

    def sums_of(self, image: Image) -> FeatureSums:
        """Return the sums of one image, for a batch of one."""
        assert image.place is not None
        here = slice(image.place, image.place + 1)
        return FeatureSums(self.sums.unit[here], self.sums.norm[here], self.sums.count[here])

    def give_back(self, image: Image) -> None:
        """Free the place of an image, if it has one."""
        if image.place is not None:
            del self.taken[image.place]
            self.free.append(image.place)
            image.place = None


class Scheduler:
    """Serves images of many clients on one function; may be used from several threads.

    On a CPU micro-batches are filled one by one, with the rows of whoever is next (`Turns`), while those before are
    computed. On a GPU, whose sums stay there until an image is done, whole images are grouped.

    Args:
        function: what is served.
        threads: micro-batches that it computes side by side.
        max_rows: rows that may wait; more are refused.
    """

    def __init__(self, function: Function, threads: int, max_rows: int) -> None:
        self.counts = Counts()
        self.failure: BaseException | None = None
        self._function = function
        self._pipeline = function.pipeline
        self.max_rows = max_rows
        self._by_rows = not function.keeps_tensors
        self._in_flight = threads + 1
        self._quantum = max(function.manifest.n0, self._pipeline.micro_batch)
        self._turns = Turns(self._quantum)
        # Enough for what is computed at once, and some that were overtaken.
        rows = self._in_flight * self._pipeline.micro_batch
        self._places = _Places(function, GROUP + -(-rows // function.manifest.n0) if self._by_rows else 0)
        self._flight: deque[list[tuple[Image, int]]] = deque()
        self._work: deque[Work] = deque()
        self._waiting_rows = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fsfast engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is there."""
        return self._thread.is_alive()

    @property
    def waiting_rows(self) -> int:
        """Rows that were admitted and are not done."""
        return self._waiting_rows

    @property
    def waiting_certificates(self) -> int:
        """Calls of certification that are not done."""
        return len(self._work)

    def admit(self, rows: int) -> None:
        """Let rows into the queue, before the images are even decoded; `release` takes back those that do not come.

        Raises:
            QueueFull: too many wait already.
            TooLarge: one request asks for more than ever may wait.
            Stopping: no more are taken.
        """
        with self._changed:
            self._check_running()
            if rows > self.max_rows:
                raise TooLarge(
                    f"wanted at most {self.max_rows} rows (images × n0) in one request, got {rows}; send fewer images"
                )
            if self._waiting_rows + rows > self.max_rows:
                raise QueueFull(
                    f"{self._waiting_rows} of {self.max_rows} rows wait already; ask again later",
                    self._waiting_rows / self._rows_per_second(),
                )
            self._waiting_rows += rows

    def release(self, rows: int) -> None:
        """Take back rows that were admitted."""
        with self._changed:
            self._waiting_rows -= rows

    def serve(
        self, items: Sequence[GridImage], seeds: Sequence[int], n0: int, client: str
    ) -> list[Future[Served]]:
        """Return a future of every image's features; its rows were admitted, and leave the queue with its end.

        A future that is cancelled is left out where it stands.

        Args:
            items: on the grid.
            seeds: one per image.
            n0: samples of each.
            client: who asks; clients take turns.

        Raises:
            Stopping: no more are taken.
        """
        images = [Image(item, seed, n0, client) for item, seed in zip(items, seeds, strict=True)]
        with self._changed:
            self._check_running()
            for image in images:
                image.future.add_done_callback(lambda _: self.release(n0))
                self._turns.add(image)
            self._changed.notify()
        return [image.future for image in images]

    def certify(self, work: Work) -> None:
        """Take on a call of `Pipeline.run`; its future ends with it.

        Raises:
            Stopping: no more are taken.
        """
        with self._changed:
            self._check_running()
            self._work.append(work)
            self._changed.notify()

    def close(self) -> None:
        """End the thread after what is being computed; whoever waits still is told so."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _check_running(self) -> None:
        if self.failure is not None:
            raise _dead()
        if self._closing:
            raise _closed()

    def _rows_per_second(self) -> float:
        counts = self.counts
        return max(1.0, counts.rows / counts.busy) if counts.busy > 0 else 1.0

    def _run(self) -> None:
        """Work until the scheduler is closed."""
        try:
            while self._wait():
                if self._turns:
                    start = time.perf_counter()
                    self._serve_rows() if self._by_rows else self._serve_images()
                    self.counts.busy += time.perf_counter() - start
                else:
                    self._certify()
            self._abandon(_closed)
        except BaseException as error:
            logger.exception("the engine's thread ended")
            self.failure = error
            self._abandon(_dead)

    def _wait(self) -> bool:
        """Wait for something to do; False where the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._turns or self._work or self._closing)
            return not self._closing

    def _abandon(self, why: Callable[[], Exception]) -> None:
        """Answer everything that waits with an error."""
        with self._changed:
            for image in [*self._turns.clear(), *self._places.taken.values()]:
                _fail(image.future, why())
            for work in self._work:
                _fail(work.future, why())
            self._work.clear()

    # Serving, row by row.

    def _serve_rows(self) -> None:
        """Serve until no rows wait."""
        places = self._places
        try:
            self._pipeline.run(
                places.pixels,
                self._micro_batches(),
                Stream.SERVING,
                places.sums,
                advance=self._reduced,
                seconds=self.counts.seconds if self._pipeline.times_steps else None,
            )
        except Exception as error:
            logger.exception("micro-batches failed")
            self._flight.clear()
            for image in list(places.taken.values()):
                places.give_back(image)
                # What is left of it in its line is passed over.
                _fail(image.future, _failed(error))

    def _micro_batches(self) -> Iterator[Rows]:
        """Yield micro-batches of whoever is next; called by the pipeline whenever it can compute one more."""
        size = self._pipeline.micro_batch
        while parts := self._next_parts(size):
            rows = Rows(np.full(size, -1, np.int32), np.zeros(size, np.uint64), np.zeros(size, np.uint32))
            end = 0
            for image, first, count in parts:
                here = slice(end, end := end + count)
                rows.image[here] = image.place
                rows.seed[here] = image.seed
                rows.sample[here] = np.arange(first, first + count)
            self._flight.append([(image, count) for image, _, count in parts])
            self.counts.micro_batches += 1
            self.counts.rows += end
            yield rows

    def _next_parts(self, size: int) -> list[tuple[Image, int, int]]:
        """Return images, and their first row and number of rows, that fill one micro-batch as far as they go."""
        parts: list[tuple[Image, int, int]] = []
        with self._changed:
            while size and not self._closing and (taken := self._turns.take(size, self._may_be_computed)):
                image, count = taken
                if not count:
                    self._drop(image)
                    continue
                if image.place is None:
                    self._places.put(image)
                parts.append((image, image.sent - count, count))
                size -= count
        return parts

    def _may_be_computed(self, image: Image) -> bool:
        """Whether an image has a place or can have one; those that take long leave half of them to the others."""
        places = self._places
        if image.place is not None or image.future.done():
            return True
        if image.n0 <= self._quantum:
            return bool(places.free)
        return 2 * sum(other.n0 > self._quantum for other in places.taken.values()) < places.count - 1

    def _reduced(self, _: int) -> None:
        """Finish the images whose last rows are in their sums."""
        for image, count in self._flight.popleft():
            image.done += count
            if image.future.cancelled():
                self._drop(image)
            elif image.done == image.n0:
                if image.future.set_running_or_notify_cancel():
                    image.future.set_result(served(self._places.sums_of(image), image.n0))
                    self.counts.images += 1
                self._places.give_back(image)

    def _drop(self, image: Image) -> None:
        """Free the place of an image that was cancelled, once none of its rows is being computed."""
        if image.done == image.sent:
            self._places.give_back(image)

    # Serving, image by image.

    def _serve_images(self) -> None:
        """Serve some images, whole."""
        images: list[Image] = []
        with self._changed:
            while len(images) < GROUP and (taken := self._turns.take(1 << 32, lambda _: True)):
                image, count = taken
                if count and image.sent == image.n0 and image.future.set_running_or_notify_cancel():
                    images.append(image)
        size = self._pipeline.micro_batch
        for n0, same in groupby(images, lambda image: image.n0):
            group = list(same)
            try:
                part = self._function.serve(
                    [image.item for image in group], [image.seed for image in group], n0
                )
            except Exception as error:
                logger.exception("images failed")
                for image in group:
                    image.future.set_exception(_failed(error))
                continue
            self.counts.micro_batches += -(-len(group) * n0 // size)
            self.counts.rows += len(group) * n0
            self.counts.images += len(group)
            for i, image in enumerate(group):
                one = slice(i, i + 1)
                raw = None if part.raw is None else part.raw[one]
                image.future.set_result(Served(part.features[one], part.unit[one], raw))

    # Certification.

    def _certify(self) -> None:
        """Compute some micro-batches of the certificate that is next, until there is something to serve."""
        with self._changed:
            work = self._work.popleft()
        if work.future.cancelled():
            return
        over = False

        def rows() -> Iterator[Rows]:
            nonlocal over
            sent = 0
            while not (
                self._turns or (self._work and sent >= _TURN) or work.future.cancelled() or self._closing
            ):
                row = next(work.rows, None)
                if row is None:
                    over = True
                    return
                sent += 1
                yield row

        def advance(count: int) -> None:
            work.done += count
            self.counts.certified_rows += count
            if work.advance:
                work.advance(count)

        scores = work.scores and Scores(work.scores.anchor, work.scores.values[work.done :])
        try:
            self._pipeline.run(work.images, rows(), work.stream, work.sums, scores=scores, advance=advance)
        except Exception as error:
            logger.exception("certification failed")
            _fail(work.future, error)
            return
        if not over:
            with self._changed:
                self._work.append(work)
        elif work.future.set_running_or_notify_cancel():
            work.future.set_result(None)


def _closed() -> Exception:
    return Stopping("the model is about to stop; ask again, or another server")


def _dead() -> Exception:
    return EngineFailed("the engine's thread has ended; restart the server")


def _failed(error: Exception) -> EngineFailed:
    return EngineFailed(f"the engine could not compute ({type(error).__name__}); the server's log says why")


def _fail(future: Future[Served] | Future[None], error: Exception) -> None:
    """End a future by an error, unless it has ended."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
