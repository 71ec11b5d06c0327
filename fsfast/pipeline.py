"""Rows in, features out: noise → purifier → resize and normalise → encoder → mapper → reduction."""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from fsfast.backends import Graph
from fsfast.engine.engine import Engine
from fsfast.engine.schedule import grid_scaling
from fsfast.errors import FsfastError
from fsfast.kernels import cosine_mean, denoise_resize_normalise, noise_tables, noisy_batch, resize_tables
from fsfast.kernels.types import FeatureSums, Rows
from fsfast.sampling import Stream

STEPS = ("noise", "purifier", "resize", "encoder", "mapper", "reduction")


@dataclass
class Context:
    """The buffers of one micro-batch, allocated once and used again."""

    noisy: np.ndarray
    eps_hat: np.ndarray | None
    pixels: np.ndarray
    tokens: np.ndarray
    refined: np.ndarray
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))


@dataclass(frozen=True, eq=False)
class Sample:
    """One noisy sample of an image, on its way to the encoder.

    Attributes:
        noisy: [H, W, 3] int16, grid levels x + N; they leave 0…255 where the noise leads.
        purified: [H, W, 3] float32 in [0, 1], what the purifier makes of it on the grid; None without one.
    """

    noisy: np.ndarray
    purified: np.ndarray | None


class Pipeline:
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

    def __init__(self, engine: Engine, graphs: dict[str, Graph], micro_batch: int, threads: int):
        manifest = engine.manifest
        self.manifest = manifest
        self.micro_batch = micro_batch
        self.threads = threads
        self._graphs = graphs
        self._mean = np.array(manifest.mean)
        self._std = np.array(manifest.std)
        self._denoise = manifest.denoise if "purifier" in graphs else None
        grid = (manifest.grid.height, manifest.grid.width)
        scaling = grid_scaling(self._denoise, self._mean, self._std)
        self.noise = noise_tables(engine.thresholds, *scaling, "float32")
        self._resize = resize_tables(grid, manifest.encoder_size)
        self._closed = False
        self._start()

    def _start(self) -> None:
        """Make the team and the buffers."""
        self._process = os.getpid()
        self._team = ThreadPoolExecutor(self.threads, thread_name_prefix="fsfast")
        self._contexts: queue.SimpleQueue[Context] = queue.SimpleQueue()
        # One more than threads: the caller reduces one micro-batch while the team works on the others.
        for _ in range(self.threads + 1):
            self._contexts.put(self._new_context())

    def close(self) -> None:
        """End the team of threads; whoever computes still is told so."""
        self._closed = True
        self._team.shutdown(wait=True, cancel_futures=True)

    def _check_open(self) -> None:
        if self._closed:
            raise FsfastError("the encoder is closed; open a new SmoothedEncoder")
        if self._process != os.getpid():
            # Threads do not survive a fork; their buffers may be in any state.
            self._start()

    def reduce(
        self,
        images: np.ndarray,
        rows: Iterable[Rows],
        stream: Stream,
        sums: FeatureSums,
        *,
        anchor: np.ndarray | None = None,
        per_token: bool = False,
        seconds: dict[str, float] | None = None,
    ) -> Generator[np.ndarray | None]:
        """Add the features of all rows to `sums`, in the order of the rows; yield each micro-batch's scores.

        Args:
            images: [B, H, W, 3] uint8 on the grid.
            rows: micro-batches of M rows, as `fsfast.sampling.micro_batches` makes them.
            stream: noise stream.
            sums: for B images; updated in place.
            anchor: [B, L, D] float64 unit directions per token, or None: no scores.
            per_token: yield [M, L] instead of [M].
            seconds: where given, the seconds spent in each of STEPS are added to it.
        """
        self._check_open()
        pending: deque[tuple[Rows, Future[Context], Context]] = deque()
        plan = iter(rows)
        try:
            while True:
                self._fill(pending, plan, images, stream)
                if not pending:
                    return
                row, future, context = pending[0]
                try:
                    future.result()
                except CancelledError:
                    self._check_open()
                    raise
                # 8. Reduction
                start = time.perf_counter()
                scores = cosine_mean(context.refined, row, sums, anchor=anchor, per_token=per_token)
                context.seconds["reduction"] += time.perf_counter() - start
                pending.popleft()
                self._release(context, seconds)
                yield scores
        finally:
            for _, future, context in pending:
                if not future.cancel():
                    wait([future])
                self._release(context, seconds)

    def _fill(
        self,
        pending: deque[tuple[Rows, Future[Context], Context]],
        plan: Iterator[Rows],
        images: np.ndarray,
        stream: Stream,
    ) -> None:
        """Start micro-batches while buffers are free; wait for a buffer only when holding none.

        Waiting while holding some could let two callers wait for each other.
        """
        while len(pending) <= self.threads:
            try:
                context = self._contexts.get(block=not pending)
            except queue.Empty:
                return
            row = next(plan, None)
            if row is None:
                self._contexts.put(context)
                return
            try:
                future = self._team.submit(self._run, context, images, row, stream)
            except RuntimeError:
                self._contexts.put(context)
                self._check_open()
                raise
            pending.append((row, future, context))

    def _release(self, context: Context, seconds: dict[str, float] | None) -> None:
        for step in STEPS:
            if seconds is not None:
                seconds[step] = seconds.get(step, 0.0) + context.seconds[step]
            context.seconds[step] = 0.0
        self._contexts.put(context)

    def _run(self, context: Context, images: np.ndarray, rows: Rows, stream: Stream) -> Context:
        clock = _Clock(context.seconds)
        # 3. Noise
        noisy_batch(images, rows, int(stream), self.noise, out=context.noisy)
        clock.lap("noise")
        if self._denoise and context.eps_hat is not None:
            # 4. Purifier
            self._graphs["purifier"].run(context.noisy, context.eps_hat)
            clock.lap("purifier")
            # 5. Resize
            self._to_pixels(
                context.noisy, context.eps_hat, (self._denoise.a, self._denoise.b), context.pixels
            )
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

    def _to_pixels(
        self, x_t: np.ndarray, eps_hat: np.ndarray | None, denoise: tuple[float, float], out: np.ndarray
    ) -> None:
        denoise_resize_normalise(x_t, eps_hat, denoise, self._resize, self._mean, self._std, out=out)

    def clean(self, images: np.ndarray) -> np.ndarray:
        """Return the raw features of the encoder alone on the clean images, [B, L, D] float32.

        No noise, no purifier, no mapper: the encoder as its user knows it.
        """
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
            self._to_pixels(padded, None, (1.0, 0.0), context.pixels)
            self._graphs["encoder"].run(context.pixels, context.tokens)
            features[first : first + len(chunk)] = context.tokens[: len(chunk)]
        return features

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """Return sample number `index` of the serving stream of one image, before it is resized and encoded.

        Args:
            image: [H, W, 3] uint8 on the grid.
            seed: of the image.
            index: number of the sample, in [0, 2³²).
        """
        self._check_open()
        padding = self.micro_batch - 1
        rows = Rows(
            image=np.array([0] + padding * [-1], np.int32),
            seed=np.array([seed] + padding * [0], np.uint64),
            sample=np.array([index] + padding * [0], np.uint32),
        )
        # With scale 1 and offset 0 the kernel writes the grid levels themselves.
        levels = noise_tables(self.noise.thresholds, np.ones(3), np.zeros(3), "float32")
        noisy = noisy_batch(image[None], rows, Stream.SERVING, levels)[0]
        return Sample(np.ascontiguousarray(noisy.transpose(1, 2, 0), np.int16), self._purified(image, rows))

    def _purified(self, image: np.ndarray, rows: Rows) -> np.ndarray | None:
        """Return the first row after one denoising step, [H, W, 3] float32 in [0, 1]; None without a purifier."""
        if not self._denoise:
            return None
        x_t = noisy_batch(image[None], rows, Stream.SERVING, self.noise)
        eps_hat = np.empty_like(x_t)
        self._graphs["purifier"].run(x_t, eps_hat)
        x0 = np.clip(self._denoise.a * x_t[0] - self._denoise.b * eps_hat[0], -1, 1)
        return np.ascontiguousarray((x0.transpose(1, 2, 0) + 1) / 2, np.float32)

    def _new_context(self) -> Context:
        manifest, m = self.manifest, self.micro_batch
        noisy = np.zeros((m, 3, manifest.grid.height, manifest.grid.width), np.float32)
        tokens = np.zeros((m, manifest.tokens, manifest.dim), np.float32)
        return Context(
            noisy=noisy,
            eps_hat=np.zeros_like(noisy) if self._denoise else None,
            # Without a purifier the noise kernel writes the encoder's normalised pixels itself.
            pixels=np.zeros((m, 3, *manifest.encoder_size), np.float32) if self._denoise else noisy,
            tokens=tokens,
            refined=np.zeros_like(tokens) if "mapper" in self._graphs else tokens,
        )


class _Clock:
    """Adds the time since the last lap to a step."""

    def __init__(self, seconds: dict[str, float]):
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._seconds[step] += now - self._last
        self._last = now
