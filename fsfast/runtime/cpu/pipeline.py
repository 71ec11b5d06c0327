"""Rows in, features out: noise → purifier → resize and normalise → encoder → mapper → reduction."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from fsfast.backends.base import Graph
from fsfast.engine.chain import Chain, levels_alone
from fsfast.engine.engine import Engine
from fsfast.kernels import cosine_mean, noisy_batch
from fsfast.kernels.types import FeatureSums, Rows
from fsfast.runtime.pipeline import STEPS, Advance, Sample, Scores, encoder_closed
from fsfast.runtime.sampling import Stream, micro_batches


@dataclass
class Context:
    """The buffers of one micro-batch, allocated once and used again."""

    noisy: np.ndarray
    eps_hat: np.ndarray | None
    pixels: np.ndarray
    tokens: np.ndarray
    refined: np.ndarray
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))


class CpuPipeline:
    """The fixed function of an engine, evaluated on micro-batches of M rows by a team of threads.

    Every micro-batch runs on one thread from its noise to its features; reductions happen on the caller's
    thread in the order of the rows. So no number of threads can change a bit. May be used from several
    threads at once.

    Args:
        engine: the engine.
        graphs: stage → graph.
        micro_batch: M.
        threads: micro-batches that are computed side by side.
    """

    times_steps = True
    device = "cpu"

    def __init__(self, engine: Engine, graphs: dict[str, Graph], micro_batch: int, threads: int):
        manifest = engine.manifest
        self.manifest = manifest
        self.micro_batch = micro_batch
        self.threads = threads
        self._graphs = graphs
        self._chain = Chain.of_engine(engine, purifier="purifier" in graphs)
        self.noise = self._chain.noise
        self.closed = False
        self._start()

    def _start(self) -> None:
        """Make the team and the buffers."""
        self._team = ThreadPoolExecutor(self.threads, thread_name_prefix="fsfast")
        self._contexts: queue.SimpleQueue[Context] = queue.SimpleQueue()
        # One more than threads: the caller reduces one micro-batch while the team works on the others.
        for _ in range(self.threads + 1):
            self._contexts.put(self._new_context())
        # Last: other threads take it as a sign that all is there.
        self._process = os.getpid()

    def close(self) -> None:
        """End the team of threads; whoever computes still is told so."""
        self.closed = True
        self._team.shutdown(wait=True, cancel_futures=True)

    def _check_open(self) -> None:
        if self.closed:
            raise encoder_closed()
        if self._process != os.getpid():
            # Threads do not survive a fork; their buffers may be in any state.
            with _restarting.lock:
                if self._process != os.getpid():
                    self._start()

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
        """As `fsfast.runtime.pipeline.Pipeline.run`."""
        self._check_open()
        pending: deque[tuple[Rows, Future[Context], Context]] = deque()
        plan, done = iter(rows), 0
        anchor, per_token = (None, False) if scores is None else (scores.anchor, scores.per_token)
        try:
            while self._fill(pending, plan, images, stream):
                row, future, context = pending[0]
                self._wait(future)
                # 8. Reduction
                start = time.perf_counter()
                found = cosine_mean(context.refined, row, sums, anchor=anchor, per_token=per_token)
                context.seconds["reduction"] += time.perf_counter() - start
                pending.popleft()
                self._release(context, seconds)
                if scores is not None:
                    scores.values[done : done + self.micro_batch] = found
                done += self.micro_batch
                if advance:
                    advance(self.micro_batch)
        finally:
            for _, future, context in pending:
                if not future.cancel():
                    wait([future])
                self._release(context, seconds)

    def _wait(self, future: Future[Context]) -> None:
        """Wait for a micro-batch; one that `close` has cancelled is answered as `close` says."""
        try:
            future.result()
        except CancelledError:
            self._check_open()
            raise

    def _fill(
        self,
        pending: deque[tuple[Rows, Future[Context], Context]],
        plan: Iterator[Rows],
        images: np.ndarray,
        stream: Stream,
    ) -> bool:
        """Start micro-batches while buffers are free, and say whether any is under way.

        Wait for a buffer only when holding none: waiting while holding some could let two callers wait for each other.
        """
        while len(pending) <= self.threads:
            try:
                context = self._contexts.get(block=not pending)
            except queue.Empty:
                break
            row = next(plan, None)
            if row is None:
                self._contexts.put(context)
                break
            try:
                future = self._team.submit(self._compute, context, images, row, stream)
            except RuntimeError:
                self._contexts.put(context)
                self._check_open()
                raise
            pending.append((row, future, context))
        return bool(pending)

    def _release(self, context: Context, seconds: dict[str, float] | None) -> None:
        for step in STEPS:
            if seconds is not None:
                seconds[step] = seconds.get(step, 0.0) + context.seconds[step]
            context.seconds[step] = 0.0
        self._contexts.put(context)

    def _compute(self, context: Context, images: np.ndarray, rows: Rows, stream: Stream) -> Context:
        clock = _Clock(context.seconds)
        # 3. Noise
        self._chain.noisy(images, rows, int(stream), out=context.noisy)
        clock.lap("noise")
        if context.eps_hat is not None:
            # 4. Purifier
            self._graphs["purifier"].run(context.noisy, context.eps_hat)
            clock.lap("purifier")
            # 5. Resize
            self._chain.pixels(context.noisy, context.eps_hat, out=context.pixels)
            clock.lap("resize")
        self._encode(context, clock)
        return context

    def _encode(self, context: Context, clock: _Clock) -> None:
        # 6. Encoder
        self._graphs["encoder"].run(context.pixels, context.tokens)
        clock.lap("encoder")
        # 7. Mapper
        if "mapper" in self._graphs:
            self._graphs["mapper"].run(context.tokens, context.refined)
            clock.lap("mapper")

    def clean(self, images: np.ndarray) -> np.ndarray:
        """As `fsfast.runtime.pipeline.Pipeline.clean`."""
        self._check_open()
        manifest = self.manifest
        features = np.empty((len(images), manifest.tokens, manifest.dim), np.float32)
        signed = (
            np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(2 / 255) - 1
        )
        context = self._new_context()
        for first in range(0, len(images), self.micro_batch):
            chunk = signed[first : first + self.micro_batch]
            padded = np.zeros((self.micro_batch, *signed.shape[1:]), np.float32)
            padded[: len(chunk)] = chunk
            self._chain.clean_pixels(padded, out=context.pixels)
            self._graphs["encoder"].run(context.pixels, context.tokens)
            features[first : first + len(chunk)] = context.tokens[: len(chunk)]
        return features

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """As `fsfast.runtime.pipeline.Pipeline.sample`."""
        self._check_open()
        (rows,) = micro_batches([seed], 1, self.micro_batch, index)
        noisy = noisy_batch(image[None], rows, Stream.SERVING, levels_alone(self.noise))[0]
        return Sample(np.ascontiguousarray(noisy.transpose(1, 2, 0), np.int16), self._purified(image, rows))

    def _purified(self, image: np.ndarray, rows: Rows) -> np.ndarray | None:
        """Return the first row after one denoising step, [H, W, 3] float32 in [0, 1]; None without a purifier."""
        if self._chain.denoise is None:
            return None
        x_t = self._chain.noisy(image[None], rows, Stream.SERVING)
        eps_hat = np.empty_like(x_t)
        self._graphs["purifier"].run(x_t, eps_hat)
        purified = self._chain.denoise.purified(x_t[0], eps_hat[0])
        return np.ascontiguousarray(purified.transpose(1, 2, 0), np.float32)

    def _new_context(self) -> Context:
        manifest, m = self.manifest, self.micro_batch
        purifier = self._chain.denoise is not None
        noisy = np.zeros((m, 3, *manifest.grid.size), np.float32)
        tokens = np.zeros((m, manifest.tokens, manifest.dim), np.float32)
        return Context(
            noisy=noisy,
            eps_hat=np.zeros_like(noisy) if purifier else None,
            # Without a purifier the noise kernel writes the encoder's normalised pixels itself.
            pixels=np.zeros((m, 3, *manifest.encoder_size), np.float32) if purifier else noisy,
            tokens=tokens,
            refined=np.zeros_like(tokens) if "mapper" in self._graphs else tokens,
        )


class _Restarting:
    """A lock that is free in the child of a fork, whoever held it in the parent."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.Lock()


_restarting = _Restarting()


class _Clock:
    """Adds the time since the last lap to a step."""

    def __init__(self, seconds: dict[str, float]):
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._seconds[step] += now - self._last
        self._last = now
