"""Rows in, features out, on one device: kernels, networks and sums on one stream, without waiting for the host."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fsfast.backends.torch.arithmetic import fixed_arithmetic
from fsfast.backends.torch.memory import MemoryPlan, available_bytes, peak_of
from fsfast.backends.torch.networks import Networks
from fsfast.backends.torch.replay import Replay
from fsfast.engine import Engine
from fsfast.errors import BackendUnavailable, EngineError, FsfastError
from fsfast.kernels import noise_tables
from fsfast.kernels.library import cosine_mean, noisy_batch
from fsfast.kernels.tensors import NoiseTensors, RowTensors, SumTensors
from fsfast.kernels.types import FeatureSums, Rows
from fsfast.pipeline import Sample
from fsfast.sampling import Stream
from fsfast.schedule import grid_scaling

# Micro-batches whose rows are sent to the device, and whose scores are read back, together.
_TOGETHER = 64
# Images whose sums are planned for; `SmoothedEncoder.encode` works on so many at a time.
_IMAGES = 16


class DevicePipeline:
    """The fixed function of an engine, evaluated on micro-batches of M rows on one device.

    Everything is launched on one stream; the networks' kernels are one CUDA graph, captured here. The host waits only
    where it reads results back. May be used from several threads at once: a lock is held while a micro-batch is
    launched, so that their micro-batches follow one another on the stream.

    Args:
        engine: the engine.
        networks: on the device.
        micro_batch: M.
        device: "cuda", or "cpu" to rehearse.

    Raises:
        BackendUnavailable: M rows do not fit into the device's memory; it says how many would.
        EngineError: the captured networks compute something else than the networks.
    """

    def __init__(self, engine: Engine, networks: Networks, micro_batch: int, device: torch.device):
        manifest = engine.manifest
        self.manifest = manifest
        self.micro_batch = micro_batch
        self.device = device
        self._networks = networks
        scaling = grid_scaling(
            manifest.denoise if networks.denoise else None, np.array(manifest.mean), np.array(manifest.std)
        )
        self.noise = noise_tables(engine.thresholds, *scaling, "float32")
        self._noise = NoiseTensors.from_arrays(self.noise, device)
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.plan = self._planned()
        with fixed_arithmetic(), self._memory():
            self._x_t = self._blank(micro_batch)
            self._features = Replay(networks.features, self._x_t, self.stream)
            self._check_replay()

    def _blank(self, rows: int) -> Tensor:
        grid = self.manifest.grid
        shape = (rows, 3, grid.height, grid.width)
        return torch.zeros(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def _planned(self) -> MemoryPlan | None:
        """Measure what rows need and refuse M before anything is captured; None on a CPU."""
        if self.stream is None:
            return None

        networks = self._networks.uncompiled()

        def peak(rows: int) -> int:
            def run() -> Tensor:
                return networks.features(self._blank(rows))

            with torch.no_grad(), fixed_arithmetic():
                # Libraries take their workspaces in the first run.
                run()
                return peak_of(run, self.device)

        # Sums of unit and raw features, and the anchor.
        sums = 3 * 8 * _IMAGES * self.manifest.tokens * self.manifest.dim
        try:
            name = torch.cuda.get_device_name(self.device)
            plan = MemoryPlan.measured(peak, sums, available_bytes(self.device), name)
        except torch.OutOfMemoryError as error:
            raise BackendUnavailable(f"not even two rows fit: {_first_line(error)}") from None
        plan.check(self.micro_batch)
        return plan

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Answer the lack of memory with the M that would fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            if self.plan is None:
                raise
            raise self.plan.refusal(self.micro_batch) from error

    def _check_replay(self) -> None:
        """Refuse networks that compute something else, or other bits, once they are captured."""
        with self.on_stream():
            values = torch.linspace(-1, 1, self._x_t.numel(), device=self.device)
            self._x_t.copy_(values.view(self._x_t.shape))
            once = self._features().clone()
            same = torch.equal(once, self._features()) and torch.equal(
                once, self._networks.features(self._x_t)
            )
        if not same:
            raise EngineError(
                "the captured networks give other bits than the networks; use another precision"
            )

    def close(self) -> None:
        """Give the device's memory back; the pipeline cannot be used afterwards."""
        with self._lock:
            self._closed = True
            if self.stream is not None:
                self.stream.synchronize()
            self.__dict__.pop("_features", None)
            self.__dict__.pop("_networks", None)

    def _check_open(self) -> None:
        if self._closed:
            raise FsfastError("the encoder is closed; open a new SmoothedEncoder")
        if self._process != os.getpid():
            raise BackendUnavailable("CUDA does not survive a fork; open the encoder after forking")

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Launch on the pipeline's stream, without gradients."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.stream is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
            yield

    @contextmanager
    def beside_caller(self, given: Tensor) -> Iterator[Callable[[Tensor], None]]:
        """Order the pipeline's stream after the caller's work on `given`, and the caller's after the pipeline's.

        Yields what must be called for every tensor that the caller gets.
        """
        if self.stream is None:
            with self.on_stream():
                yield lambda tensor: None
            return
        theirs = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(theirs)
        given.record_stream(self.stream)
        try:
            with self.on_stream():
                yield lambda tensor: tensor.record_stream(theirs)
        finally:
            theirs.wait_stream(self.stream)

    def upload(self, array: np.ndarray) -> Tensor:
        """Send an array to the device without waiting; a CPU tensor shares its memory."""
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self.stream is None:
            return tensor
        with self.on_stream():
            return tensor.pin_memory().to(self.device, non_blocking=True)

    def empty_sums(self, images: int, *, raw: bool = False) -> SumTensors:
        """Return sums of nothing on the device."""
        shape = (images, self.manifest.tokens, self.manifest.dim)
        with self.on_stream():
            unit, norm = (torch.zeros(s, dtype=torch.float64, device=self.device) for s in (shape, shape[:2]))
            count = torch.zeros(images, dtype=torch.int64, device=self.device)
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
        self._check_open()
        for tensors in self._row_tensors(rows):
            with self._lock, self.on_stream(), self._memory():
                self._check_open()
                self._x_t.copy_(noisy_batch(images, tensors, int(stream), self._noise, layout="nhwc"))
                scores = cosine_mean(self._features(), tensors, sums, anchor=anchor, per_token=per_token)
            yield scores

    def _row_tensors(self, rows: Iterable[Rows]) -> Iterator[RowTensors]:
        """Send the rows of many micro-batches at once."""
        plan = iter(rows)
        while group := list(islice(plan, _TOGETHER)):
            image = self.upload(np.stack([r.image for r in group]))
            seed = self.upload(np.stack([r.seed for r in group]).view(np.int64))
            sample = self.upload(np.stack([r.sample for r in group]).view(np.int32))
            for i in range(len(group)):
                yield RowTensors(image[i], seed[i], sample[i])

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
        """As `fsfast.pipeline.Pipeline.reduce`; scores are read back many at a time, sums once at the end.

        Raises:
            ValueError: `seconds` is given.
        """
        if seconds is not None:
            raise ValueError(
                "seconds: steps overlap on a GPU and are not timed one by one; use torch.profiler"
            )
        self._check_open()
        place = self.upload(images)
        against = None if anchor is None else self.upload(anchor)
        found = self.empty_sums(len(images), raw=sums.raw is not None)
        waiting: list[Tensor] = []
        for scores in self.accumulate(place, rows, stream, found, anchor=against, per_token=per_token):
            if scores is None:
                yield None
                continue
            waiting.append(scores)
            if len(waiting) == _TOGETHER:
                yield from self._read(waiting)
                waiting = []
        yield from self._read(waiting)
        with self.on_stream():
            arrays = found.to_arrays()
        sums.unit += arrays.unit
        sums.norm += arrays.norm
        sums.count += arrays.count
        if sums.raw is not None and arrays.raw is not None:
            sums.raw += arrays.raw

    def _read(self, scores: list[Tensor]) -> Iterator[np.ndarray]:
        if scores:
            with self.on_stream():
                together = torch.stack(scores).cpu()
            yield from together.numpy()

    def clean(self, images: np.ndarray) -> np.ndarray:
        """As `fsfast.pipeline.Pipeline.clean`."""
        self._check_open()
        parts = []
        place, m = self.upload(images), self.micro_batch
        with self._lock, self.on_stream(), self._memory(), fixed_arithmetic():
            for first in range(0, len(images), m):
                chunk = place[first : first + m].permute(0, 3, 1, 2)
                signed = self._blank(m) - 1
                signed[: len(chunk)] = chunk.float() * (2 / 255) - 1
                pixels = self._networks.to_pixels(signed, None, (1.0, 0.0))
                tokens = self._networks.modules["encoder"](pixels)
                parts.append(tokens[: len(chunk)].float())
            return torch.cat(parts).cpu().numpy()

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """As `fsfast.pipeline.Pipeline.sample`."""
        self._check_open()
        padding = self.micro_batch - 1
        rows = Rows(
            image=np.array([0] + padding * [-1], np.int32),
            seed=np.array([seed] + padding * [0], np.uint64),
            sample=np.array([index] + padding * [0], np.uint32),
        )
        (tensors,) = self._row_tensors([rows])
        # With scale 1 and offset 0 the kernel writes the grid levels themselves.
        levels = noise_tables(self.noise.thresholds, np.ones(3), np.zeros(3), "float32")
        place = self.upload(image[None])
        with self._lock, self.on_stream(), fixed_arithmetic():
            noisy = noisy_batch(place, tensors, Stream.SERVING, NoiseTensors.from_arrays(levels, self.device))
            grid = noisy[0].permute(1, 2, 0).cpu().numpy().astype(np.int16)
            if self._networks.denoise is None:
                return Sample(grid, None)
            x_t = noisy_batch(place, tensors, Stream.SERVING, self._noise, layout="nhwc")
            eps_hat = self._networks.predicted_noise(x_t)
            a, b = self._networks.denoise
            purified = (torch.clamp(a * x_t[0] - b * eps_hat[0].float(), -1, 1) + 1) / 2
            return Sample(grid, np.ascontiguousarray(purified.permute(1, 2, 0).cpu().numpy(), np.float32))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
