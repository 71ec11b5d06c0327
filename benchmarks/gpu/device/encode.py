"""Encodes with the paper's networks: the researcher's loop, batched, compiled, fsfast; and a certification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device.baselines import Baseline
from benchmarks.gpu.device.networks import Case, case_of, flops, function_of, random_modules
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import guarded
from benchmarks.measuring.cases import SIGMA
from export.thresholds import gaussian_thresholds
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.certificates.anchors import served_anchor
from fsfast.certificates.certification import Plan, Task, certify
from fsfast.images.grid import GridImage
from fsfast.kernels import noise_tables
from fsfast.kernels.library import noisy_batch
from fsfast.kernels.tensors import NoiseTensors, RowTensors
from fsfast.runtime.gpu.function import GpuFunction
from fsfast.runtime.sampling import Stream, micro_batches

# The engine's and the largest first, in case that time runs out.
N0 = (4, 16, 1, 2, 8)
# Compiling takes minutes: for one n0.
COMPILED_N0 = 4
SEED = 1


@dataclass(frozen=True)
class EncodeRow:
    """One line of a results file.

    Attributes:
        case: the networks.
        technique: who computes.
        n0: samples of the one image.
        p20_ms, p50_ms, p80_ms: percentiles of one call, from its launch to its end on the device.
        samples_per_s: at the median.
        memory_mb: the most that torch held, weights of all techniques included.
        cosine: mean cosine of the tokens' directions to those of the loop in float32 without TF32, same noise.
        tflops: achieved, at the operations that torch counts.
        matmul_share: of the rate of a large bfloat16 matrix product measured in the same run.
    """

    case: str
    technique: str
    n0: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    samples_per_s: float
    memory_mb: float | None
    cosine: float
    tflops: float
    matmul_share: float


def matmul_rate(place: Place) -> float:
    """Return the operations per second of a large bfloat16 product: 2·n³ each."""
    n = 64 if place.rehearsed else 8192
    a, b = (torch.randn((n, n), device=place.device).bfloat16() for _ in range(2))
    return 2 * n**3 / place.measure(lambda: a @ b, runs=20).p50


@dataclass(frozen=True)
class Study:
    """What the techniques of one case share.

    Attributes:
        place, case: where and what.
        rate: of a matrix product, operations per second.
        item: one image; `image` is the same on the device, [3, H, W] float32 in [0, 1].
    """

    place: Place
    case: Case
    rate: float
    item: GridImage
    image: Tensor

    @classmethod
    def of(cls, place: Place, case: Case, rate: float = 1.0) -> Study:
        """Prepare one image."""
        pixels = np.random.default_rng(0).integers(0, 256, (case.side, case.side, 3), dtype=np.uint8)
        image = torch.from_numpy(pixels).to(place.device).permute(2, 0, 1).float() / 255
        return cls(place, case, rate, GridImage(pixels, None, {}), image)

    def row(
        self, technique: str, n0: int, call: Callable[[], object], direction: Tensor, wanted: Tensor
    ) -> EncodeRow:
        """Measure a technique whose direction is [L, D]."""
        timing = self.place.measure(call)
        speed = n0 * flops(self.case) / timing.p50
        cosine = F.cosine_similarity(direction.double(), wanted.double(), dim=-1).mean()
        return EncodeRow(
            case=self.case.name,
            technique=technique,
            n0=n0,
            p20_ms=timing.p20 * 1e3,
            p50_ms=timing.p50 * 1e3,
            p80_ms=timing.p80 * 1e3,
            samples_per_s=n0 / timing.p50,
            memory_mb=self.place.memory_mb(call),
            cosine=float(cosine),
            tflops=speed / 1e12,
            matmul_share=speed / self.rate,
        )

    def noisy(self, n0: int) -> Tensor:
        """Return fsfast's noisy samples, [n0, 3, H, W] float32 in [0, 1] plus noise."""
        levels = noise_tables(gaussian_thresholds(SIGMA), np.ones(3), np.zeros(3), "float32")
        (rows,) = micro_batches([SEED], n0, n0)
        tensors = RowTensors.from_arrays(rows, 1, self.place.device)
        images = torch.from_numpy(self.item.pixels).to(self.place.device)[None]
        noise = NoiseTensors.from_arrays(levels, self.place.device)
        return noisy_batch(images, tensors, Stream.SERVING, noise) / 255

    def reference(self, loop: Baseline, n0: int) -> tuple[Tensor, Tensor]:
        """Return fsfast's noisy samples and their direction in float32 without TF32: with it every row is compared."""
        noisy = self.noisy(n0)
        with fixed_arithmetic():
            return noisy, loop.one_by_one(self.image, n0, noisy)

    def baseline(
        self, technique: str, encode: Callable[..., Tensor], n0: int, noisy: Tensor, wanted: Tensor
    ) -> list[EncodeRow]:
        """Measure a baseline's way from an image on the device to its direction."""
        direction = encode(self.image, n0, noisy)
        return [self.row(technique, n0, partial(encode, self.image, n0), direction, wanted)]

    def fsfast(self, technique: str, function: GpuFunction, n0: int, wanted: Tensor) -> list[EncodeRow]:
        """Measure the whole way: the image from the host, features back to it."""
        encode = partial(function.serve, [self.item], [SEED], n0)
        direction = torch.from_numpy(encode().unit[0]).to(wanted.device)
        return [self.row(technique, n0, encode, direction, wanted)]


def techniques(place: Place, name: str, numbers: tuple[int, ...] = N0) -> Iterator[Any]:
    """Encode one image with n0 samples by every technique; M = n0. A wrong one shows in its cosine.

    Args:
        place: where.
        name: of the case.
        numbers: values of n0.
    """
    case = case_of(name, place)
    study = Study.of(place, case, matmul_rate(place))
    modules, size = random_modules(case, place.device), case.encoder.image_size
    loop, batch = Baseline(modules, size, torch.float32), Baseline(modules, size, torch.bfloat16)
    # As torch comes, convolutions in float32 round to TF32.
    baselines = {"eager float32, one by one": loop.one_by_one, "eager bfloat16, batched": batch.batched}

    def encoded(n0: int) -> Iterator[Any]:
        noisy, wanted = study.reference(loop, n0)
        for technique, encode in baselines.items():
            measure = partial(study.baseline, technique, encode, n0, noisy, wanted)
            yield from guarded(f"{technique}, n0={n0}", measure)
        function = function_of(case, modules, place, "bfloat16", n0)
        yield from study.fsfast("fsfast, bfloat16", function, n0, wanted)
        function.pipeline.close()

    for n0 in numbers:
        yield from guarded(f"{name}, n0={n0}", partial(encoded, n0))


def compiled(place: Place, name: str, n0: int = COMPILED_N0) -> Iterator[Any]:
    """Encode with torch.compile, alone and under fsfast; compiling is not timed."""
    case = case_of(name, place)
    study = Study.of(place, case, matmul_rate(place))
    modules, size = random_modules(case, place.device), case.encoder.image_size
    noisy, wanted = study.reference(Baseline(modules, size, torch.float32), n0)

    def alone() -> list[EncodeRow]:
        encode = Baseline(modules, size, torch.bfloat16, place.compile).batched
        return study.baseline("torch.compile bfloat16, batched", encode, n0, noisy, wanted)

    def under_fsfast() -> Iterator[EncodeRow]:
        function = function_of(case, modules, place, "bfloat16", n0, compiled=True)
        yield from study.fsfast("fsfast, bfloat16, compiled networks", function, n0, wanted)
        function.pipeline.close()

    yield from guarded("torch.compile", alone)
    yield from guarded("torch.compile under fsfast", under_fsfast)


@dataclass(frozen=True)
class CertifyRow:
    """One line of a results file: one image, n samples, one certificate."""

    case: str
    micro_batch: int
    n: int
    seconds: float
    samples_per_s: float
    memory_mb: float | None


def certification(place: Place, name: str, n: int = 1000, micro_batch: int = 16) -> Iterator[CertifyRow]:
    """Certify one image, pilot and anchor included, in bfloat16."""
    case = case_of(name, place)
    item = Study.of(place, case).item
    function = function_of(case, random_modules(case, place.device), place, "bfloat16", micro_batch)

    def whole() -> None:
        unit, anchor = served_anchor(function, item, 4, SEED, "replay")
        certify(function, [Task(item, unit, anchor, SEED, "replay")], Plan(n, 1e-3))

    # Kernels were compiled and captured when the function was made: the first run is like any other.
    seconds, memory = place.once(whole)
    yield CertifyRow(case.name, micro_batch, n, seconds, n / seconds, memory)
    function.pipeline.close()
