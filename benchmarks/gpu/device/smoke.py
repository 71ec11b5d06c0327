"""Whether the device works at all: bits of the three kernels in the types that are served, and the built-in engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import fsfast
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import guarded
from benchmarks.gpu.kernels import DENOISE, same_bits
from benchmarks.measuring.cases import MEAN, SIGMA, STD, make_rows
from export.thresholds import gaussian_thresholds
from fsfast.kernels import noise_tables, resize_tables
from fsfast.kernels.library import cosine_mean, denoise_resize_normalise, noisy_batch
from fsfast.kernels.tensors import FLOATS, NoiseTensors, ResizeTensors, RowTensors, SumTensors
from fsfast.kernels.types import Dtype
from fsfast.report.examples import load_examples
from fsfast.runtime.gpu import opening

PRECISIONS: tuple[Dtype, ...] = ("float32", "bfloat16")
_SEED = 7


@dataclass(frozen=True)
class BitsRow:
    """A kernel whose bits are those of the C++ kernel."""

    case: str
    variant: str
    values: int


@dataclass(frozen=True)
class DemoRow:
    """The built-in engine at work on one picture.

    Attributes:
        case, variant: the engine, and its precision.
        open_s: seconds until it is open, kernels compiled.
        encode_ms: of the second encode.
        certify_s: of a certificate of n samples.
        n: samples.
        verdict: of the certificate's replay.
        cosine: mean cosine of the features' directions to those of the first precision.
    """

    case: str
    variant: str
    open_s: float
    encode_ms: float
    certify_s: float
    n: int
    verdict: str
    cosine: float


def smoke(place: Place, n: int = 200) -> Iterator[Any]:
    """Compare the kernels with the C++ ones, then open, encode, certify and verify with the built-in engine."""
    for case, kernel, precision in KERNELS:
        yield from guarded(f"{case}, {precision}", partial(_compared, place, case, kernel, precision))
    directions: list[np.ndarray] = []
    for precision in PRECISIONS:
        yield from guarded(f"demo, {precision}", partial(_demo, place, precision, n, directions))


def _noise(device: torch.device, precision: Dtype) -> list[Tensor]:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    tables = noise_tables(gaussian_thresholds(SIGMA), np.full(3, 2 / 255), np.full(3, -1.0), "float32")
    rows = RowTensors.from_arrays(make_rows(4, 2), 2, device)
    given = torch.from_numpy(images).to(device)
    return [noisy_batch(given, rows, 0, NoiseTensors.from_arrays(tables, device), layout="nhwc")]


def _resize(device: torch.device, precision: Dtype) -> list[Tensor]:
    order = torch.channels_last
    x_t, eps_hat = _random((2, 4, 3, 64, 64))
    x_t = x_t.to(device).contiguous(memory_format=order)
    eps_hat = eps_hat.to(device, FLOATS[precision]).contiguous(memory_format=order)
    mean, std = (torch.from_numpy(v).to(device) for v in (MEAN, STD))
    tables = ResizeTensors.from_arrays(resize_tables((64, 64), (84, 84)), device)
    more: dict[str, Any] = {"dtype": precision, "layout": "nhwc"}
    return [denoise_resize_normalise(x_t, eps_hat, DENOISE, tables, mean, std, **more)]


def _reduction(device: torch.device, precision: Dtype) -> list[Tensor]:
    features = _random((4, 20, 64)).to(device, FLOATS[precision])
    anchor = torch.nn.functional.normalize(_random((2, 20, 64)).double(), dim=-1).to(device)
    sums, rows = SumTensors.zeros(2, 20, 64, device), RowTensors.from_arrays(make_rows(4, 2), 2, device)
    scores = cosine_mean(features, rows, sums, anchor=anchor)
    assert scores is not None
    return [scores, sums.unit, sums.norm]


KERNELS: tuple[tuple[str, Callable[[torch.device, Dtype], list[Tensor]], Dtype], ...] = (
    # What it writes is float32 whatever the networks compute in.
    ("noisy_batch", _noise, "float32"),
    *(("denoise_resize_normalise", _resize, precision) for precision in PRECISIONS),
    *(("cosine_mean", _reduction, precision) for precision in PRECISIONS),
)


def _random(shape: tuple[int, ...]) -> Tensor:
    """The same numbers on every device."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def _compared(
    place: Place, case: str, kernel: Callable[..., list[Tensor]], precision: Dtype
) -> Iterator[BitsRow]:
    """The operators run C++ on the CPU; raises AssertionError where the device's bits are others."""
    pairs = zip(kernel(place.device, precision), kernel(torch.device("cpu"), precision), strict=True)
    values = 0
    for got, wanted in pairs:
        if not same_bits(got, wanted):
            raise AssertionError(f"{case}, {precision}: the device's bits are not those of the C++ kernel")
        values += wanted.numel()
    yield BitsRow(case, precision, values)


def _demo(place: Place, precision: Dtype, n: int, directions: list[np.ndarray]) -> Iterator[DemoRow]:
    image = load_examples()[0].image
    start = time.perf_counter()
    with _as_cuda(place), fsfast.SmoothedEncoder("demo", device="cuda", precision=precision) as encoder:
        opened = time.perf_counter() - start
        found = encoder.encode(image, seeds=[_SEED])
        directions.append(found.unit[0])
        encode = place.measure(partial(encoder.encode, image, seeds=[_SEED]))
        start = time.perf_counter()
        certificate = encoder.certify(image, n, seeds=[_SEED])
        certify = time.perf_counter() - start
        verdict = encoder.verify(certificate, image).verdict
    cosine = float((directions[0] * directions[-1]).sum(-1).mean())
    yield DemoRow("demo", precision, opened, encode.p50 * 1e3, certify, n, verdict, cosine)
    if verdict != "same":
        raise AssertionError(f"wanted the certificate's bits again, got: {verdict}")


def _as_cuda(place: Place) -> Any:
    """In a rehearsal the CPU stands for the GPU."""
    if not place.rehearsed:
        return nullcontext()
    return patch.object(opening, "cuda_device", lambda name: place.device)
