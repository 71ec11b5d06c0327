"""Rows in, features out, on one device: kernels, networks and sums on one stream, without waiting for the host."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, product

import numpy as np
import torch
from torch import Tensor

from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.capture import Replay
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.memory import MemoryPlan, planned
from fsfast.engine.chain import levels_alone, scaled_noise
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.errors import BackendUnavailable
from fsfast.kernels.library import cosine_mean, noisy_batch
from fsfast.kernels.tensors import NoiseTensors, RowTensors, SumTensors
from fsfast.kernels.types import FeatureSums, Layout, Rows
from fsfast.runtime.gpu.networks import Networks
from fsfast.runtime.pipeline import Advance, Sample, Scores, encoder_closed
from fsfast.runtime.sampling import Stream, micro_batches

# Micro-batches whose rows are sent to the device, and whose scores are read back, together.
_TOGETHER = 64
# Rows of a micro-batch begin at multiples of 16 bytes: Triton compiles a kernel anew for every kind of alignment.
_ALIGNED = 4
# Images whose sums are planned for: so many are worked on at a time.
IMAGES = 16


class GpuPipeline:
    """The fixed function of an engine, evaluated on micro-batches of M rows on one device.

    Everything is launched on one stream; the networks' kernels are one CUDA graph, captured here where the library
    allows it. The host waits only where it reads results back. May be used from several threads at once: a lock is held
    while a micro-batch is launched, so that their micro-batches follow one another on the stream.

    Args:
        engine: the engine.
        networks: on the lane's device.
        micro_batch: M.
        lane: where everything runs.
        plan: of the memory, from `plan_memory`.

    Raises:
        BackendUnavailable: M rows do not fit into the device's memory; it says how many would.
        EngineError: the captured networks compute something else than the networks.
    """

    times_steps = False

    def __init__(
        self, engine: Engine, networks: Networks, micro_batch: int, lane: Lane, plan: MemoryPlan | None
    ):
        manifest = engine.manifest
        self.manifest = manifest
        self.micro_batch = micro_batch
        self.lane = lane
        self.device = str(lane.device)
        self.plan = plan
        self._networks = networks
        self._layout: Layout = networks.stages.layout
        self.noise = scaled_noise(engine.thresholds, networks.denoise, manifest.mean, manifest.std)
        self._lock = threading.Lock()
        self.closed = False
        self._process = os.getpid()
        with lane.current(), fixed_arithmetic(), self._memory():
            self._noise = NoiseTensors.from_arrays(self.noise, lane.device)
            self._x_t = blank(manifest, micro_batch, lane.device, self._layout)
            values = torch.linspace(-1, 1, self._x_t.numel(), dtype=torch.float32, device=lane.device)
            self._x_t.copy_(values.view(self._x_t.shape))
            capture = networks.stages.capturable
            self._features = Replay(networks.features, self._x_t, lane, capture=capture)
            self._warm_up()

    def _warm_up(self) -> None:
        """Let Triton compile the kernels around the networks, or the first image would wait for it."""
        grid, shape = self.manifest.grid, (self.manifest.tokens, self.manifest.dim)
        images = torch.zeros((1, *grid.size, 3), dtype=torch.uint8, device=self.lane.device)
        m = self.micro_batch
        nothing = Rows(np.full(m, -1, np.int32), np.zeros(m, np.uint64), np.zeros(m, np.uint32))
        (rows,) = self._row_tensors([nothing])
        noisy_batch(images, rows, int(Stream.SERVING), self._noise, layout=self._layout)
        features = self._features()
        anchor = torch.zeros((1, *shape), dtype=torch.float64, device=self.lane.device)
        for raw, against, per_token in product((False, True), (None, anchor), (False, True)):
            sums = self.empty_sums(1, raw=raw)
            cosine_mean(features, rows, sums, anchor=against, per_token=per_token)
        if self._networks.denoise is not None:
            # As `clean` does.
            self._networks.to_pixels(self._x_t, None, (1.0, 0.0))

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Answer the lack of memory with the M that would fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            if self.plan is None:
                raise BackendUnavailable(
                    f"wanted micro-batches of {self.micro_batch} rows: {str(error).splitlines()[0]}; "
                    "take a smaller micro_batch"
                ) from error
            raise self.plan.refusal(self.micro_batch) from error

    def close(self) -> None:
        """Give the device's memory back; the pipeline cannot be used afterwards."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if self._process == os.getpid():
                self.lane.wait()
            del self._features, self._networks, self._x_t, self._noise

    def check_open(self) -> None:
        """Raise FsfastError after `close`, BackendUnavailable in the child of a fork."""
        if self.closed:
            raise encoder_closed()
        if self._process != os.getpid():
            raise BackendUnavailable("CUDA does not survive a fork; open the encoder after forking")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Launch on the stream while no other thread does, and nobody closes the pipeline."""
        with self._lock, self.lane.current(), self._memory():
            self.check_open()
            yield

    def empty_sums(self, images: int, *, raw: bool = False) -> SumTensors:
        """Return sums of nothing on the device."""
        shape = (images, self.manifest.tokens, self.manifest.dim)
        device = self.lane.device
        with self.lane.current():
            unit, norm = (torch.zeros(s, dtype=torch.float64, device=device) for s in (shape, shape[:2]))
            count = torch.zeros(images, dtype=torch.int64, device=device)
            return SumTensors(unit, norm, count, torch.zeros_like(unit) if raw else None)

    def accumulate(
        self,
        images: Tensor,
        rows: Iterable[Rows],
        stream: Stream,
        sums: SumTensors,
        *,
        anchor: Tensor | None = None,
        per_token: bool = False,
    ) -> Iterator[Tensor | None]:
        """Launch micro-batch after micro-batch; yield each one's scores on the device, or None without an anchor.

        Args:
            images: [B, H, W, 3] uint8 on the device.
            rows: micro-batches of M rows.
            stream: noise stream.
            sums: for B images on the device; the features are added in the order of the rows.
            anchor: [B, L, D] float64 unit directions per token on the device.
            per_token: scores are [M, L] instead of [M].
        """
        for tensors in self._row_tensors(rows):
            with self._alone():
                # 3. Noise
                self._x_t.copy_(noisy_batch(images, tensors, int(stream), self._noise, layout=self._layout))
                # 4 to 7 are one replay of `Networks.features`. 8. Reduction
                scores = cosine_mean(self._features(), tensors, sums, anchor=anchor, per_token=per_token)
            yield scores

    def _row_tensors(self, rows: Iterable[Rows]) -> Iterator[RowTensors]:
        """Send the rows of many micro-batches at once."""
        plan, m = iter(rows), self.micro_batch
        pitch = -(-m // _ALIGNED) * _ALIGNED
        while group := list(islice(plan, _TOGETHER)):
            image, sample = np.full((2, len(group), pitch), -1, np.int32)
            seed = np.zeros((len(group), pitch), np.int64)
            for i, row in enumerate(group):
                image[i, :m], seed[i, :m], sample[i, :m] = (
                    row.image,
                    row.seed.view(np.int64),
                    row.sample.view(np.int32),
                )
            sent = [self.lane.upload(array) for array in (image, seed, sample)]
            for i in range(len(group)):
                yield RowTensors(*(tensor[i, :m] for tensor in sent))

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
        """As `fsfast.runtime.pipeline.Pipeline.run`; scores are read back many at a time, sums once at the end."""
        refuse_seconds(seconds)
        self.check_open()
        anchor, per_token = (None, False) if scores is None else (scores.anchor, scores.per_token)
        with self._memory():
            place = self.lane.upload(images)
            against = None if anchor is None else self.lane.upload(anchor)
            device_sums = self.empty_sums(len(images), raw=sums.raw is not None)
        waiting: list[Tensor] = []
        done = 0
        for found in self.accumulate(place, rows, stream, device_sums, anchor=against, per_token=per_token):
            if scores is not None and found is not None:
                waiting.append(found)
                if len(waiting) == _TOGETHER:
                    done = self._read(waiting, scores, done)
            if advance:
                advance(self.micro_batch)
        if scores is not None and waiting:
            self._read(waiting, scores, done)
        with self.lane.current():
            arrays = device_sums.to_arrays()
        sums.unit += arrays.unit
        sums.norm += arrays.norm
        sums.count += arrays.count
        if sums.raw is not None and arrays.raw is not None:
            sums.raw += arrays.raw

    def _read(self, waiting: list[Tensor], scores: Scores, done: int) -> int:
        """Read the scores of some micro-batches back together, and return how many rows are done then."""
        with self.lane.current():
            together = torch.cat(waiting)
        waiting.clear()
        scores.values[done : done + len(together)] = self.lane.read(together)
        return done + len(together)

    def clean(self, images: np.ndarray) -> np.ndarray:
        """As `fsfast.runtime.pipeline.Pipeline.clean`."""
        self.check_open()
        parts = []
        place, m = self.lane.upload(images), self.micro_batch
        for first in range(0, len(images), m):
            chunk = place[first : first + m]
            with self._alone(), fixed_arithmetic():
                signed = blank(self.manifest, m, self.lane.device, self._layout) - 1
                signed[: len(chunk)] = chunk.permute(0, 3, 1, 2).float() * (2 / 255) - 1
                pixels = self._networks.to_pixels(signed, None, (1.0, 0.0))
                parts.append(self._networks.encoded(pixels)[: len(chunk)].float())
        with self.lane.current():
            together = torch.cat(parts)
        return self.lane.read(together)

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """As `fsfast.runtime.pipeline.Pipeline.sample`."""
        self.check_open()
        (rows,) = micro_batches([seed], 1, self.micro_batch, index)
        (tensors,) = self._row_tensors([rows])
        place, purified = self.lane.upload(image[None]), None
        with self._alone(), fixed_arithmetic():
            table = NoiseTensors.from_arrays(levels_alone(self.noise), self.lane.device)
            noisy = noisy_batch(place, tensors, Stream.SERVING, table)[0].permute(1, 2, 0)
            if self._networks.denoise is not None:
                x_t = noisy_batch(place, tensors, Stream.SERVING, self._noise, layout=self._layout)
                eps_hat = self._networks.predicted_noise(x_t)
                purified = self._networks.denoise.purified(x_t[0], eps_hat[0].float())
        grid = self.lane.read(noisy).astype(np.int16)
        if purified is None:
            return Sample(grid, None)
        return Sample(grid, np.ascontiguousarray(self.lane.read(purified.permute(1, 2, 0)), np.float32))


def blank(manifest: Manifest, rows: int, device: torch.device, layout: Layout) -> Tensor:
    """Return zeros where noisy images go, [rows, 3, H, W] float32."""
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    shape = (rows, 3, manifest.grid.height, manifest.grid.width)
    return torch.empty(shape, dtype=torch.float32, device=device, memory_format=order).zero_()


def plan_memory(manifest: Manifest, networks: Networks, lane: Lane) -> MemoryPlan | None:
    """Measure what rows need before anything is captured; None on a CPU, or where a library keeps memory of its own.

    Raises:
        BackendUnavailable: not even two rows fit.
    """
    if lane.stream is None or networks.stages.plain is None:
        return None
    plain, layout = networks.running(networks.stages.plain), networks.stages.layout
    # Sums of unit and raw features, and the anchor.
    sums = 3 * 8 * IMAGES * manifest.tokens * manifest.dim
    with lane.current(), fixed_arithmetic():
        return planned(
            lambda rows: plain.features(blank(manifest, rows, lane.device, layout)), sums, lane.device
        )


def refuse_seconds(seconds: dict[str, float] | None) -> None:
    """Raise ValueError where the time of every step is asked for."""
    if seconds is not None:
        raise ValueError("seconds: steps overlap on a GPU and are not timed one by one; use torch.profiler")
