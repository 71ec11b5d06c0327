"""The three kernels against what people would write in NumPy and torch, and against copy bandwidth.

`python -m benchmarks.cpu.kernels` prints the table; `noise`, `resize` and `reduction` are cases of the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measuring.cases import MEAN, SIGMA, STD, make_rows
from benchmarks.measuring.harness import Row, Timing, measure, row, show
from export.thresholds import gaussian_thresholds
from fsfast.kernels import (
    FeatureSums,
    cosine_mean,
    denoise_resize_normalise,
    noise_tables,
    noisy_batch,
    resize_tables,
)
from fsfast.kernels.casts import from_float32
from fsfast.kernels.types import Dtype
from fsfast.machine import available_threads

_SECONDS = 0.5


def noise() -> Iterator[Row]:
    """4 × 3 × 224 × 224 noisy pixels; the unit is a sample: one noisy value."""
    case = "noisy_batch"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    rows, amount = make_rows(4, 4), images.size / 1e9
    x = rng.random(images.size, dtype=np.float32)
    buffer = np.empty_like(x)
    tensor, drawn = torch.from_numpy(x), torch.empty(images.size)

    def with_numpy() -> None:
        rng.standard_normal(out=buffer, dtype=np.float32)
        np.multiply(buffer, np.float32(SIGMA), out=buffer)
        np.add(buffer, x, out=buffer)

    for threads in sorted({1, available_threads()}):
        torch.set_num_threads(threads)
        numpy_time = measure(with_numpy, seconds=_SECONDS)
        torch_time = measure(lambda: drawn.normal_().mul_(SIGMA).add_(tensor), seconds=_SECONDS)
        if threads == 1:
            yield row(case, "NumPy standard_normal", 1, numpy_time, amount, "G samples/s")
        yield row(case, "torch normal_", threads, torch_time, amount, "G samples/s")
        for dtype in ("float32", "float16"):
            tables = noise_tables(gaussian_thresholds(SIGMA), np.full(3, 2 / 255), np.full(3, -1.0), dtype)
            out = noisy_batch(images, rows, 0, tables)
            call = partial(noisy_batch, images, rows, 0, tables, out=out, threads=threads)
            timing = measure(call, seconds=_SECONDS)
            share = {"share": torch_time.p50 / timing.p50, "of": "torch"}
            yield row(case, f"exact, {dtype}", threads, timing, amount, "G samples/s", **share)


def copy_time(size: int, threads: int) -> Timing:
    """Time a copy that moves `size` bytes in all: half of them read, half written.

    The share of copy bandwidth that a kernel reaches is this time over its own, for the same bytes moved.
    """
    torch.set_num_threads(threads)
    source = torch.ones(size // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return measure(lambda: target.copy_(source), seconds=_SECONDS)


def torch_denoise(x_t: torch.Tensor, eps_hat: torch.Tensor, target: int) -> torch.Tensor:
    """What people would write: [M, 3, H, W] and [M, C ≥ 3, H, W] float32 to [M, 3, target, target]."""
    mean, std = (torch.tensor(v, dtype=torch.float32).reshape(3, 1, 1) for v in (MEAN, STD))
    pixels = ((1.03 * x_t - 0.25 * eps_hat[:, :3]).clamp(-1, 1) + 1) / 2
    pixels = F.interpolate(pixels, (target, target), mode="bicubic", antialias=True)
    return (pixels - mean) / std


def resize() -> Iterator[Row]:
    """4 images with noise estimates of 6 channels, down and up, and without a change of size."""
    case = "denoise_resize_normalise"
    rng = np.random.default_rng(0)
    for source, target in ((256, 224), (256, 336), (224, 224)):
        x_t, eps_hat = (rng.standard_normal((4, c, source, source), dtype=np.float32) for c in (3, 6))
        tables = resize_tables((source, source), (target, target))
        out = denoise_resize_normalise(x_t, eps_hat, (1.03, 0.25), tables, MEAN, STD)
        # x_t and three channels of eps_hat are read once, the result is written once.
        size = 2 * x_t.nbytes + out.nbytes
        x, e = torch.from_numpy(x_t), torch.from_numpy(eps_hat)
        for threads in sorted({1, available_threads()}):
            copied = copy_time(size, threads)
            yield row(
                case,
                f"torch, {source}→{target}",
                threads,
                measure(partial(torch_denoise, x, e, target), seconds=_SECONDS),
                size / 1e9,
                "GB/s",
            )
            call = partial(denoise_resize_normalise, x_t, eps_hat, (1.03, 0.25), tables, MEAN, STD)
            timing = measure(partial(call, out=out, threads=threads), seconds=_SECONDS)
            share = {"share": copied.p50 / timing.p50, "of": "copy bandwidth"}
            yield row(case, f"{source}→{target}", threads, timing, size / 1e9, "GB/s", **share)


def reduction() -> Iterator[Row]:
    """Tokens of ViT-B/16 at 224 and of ViT-L/14 at 336, several samples of one and of four images."""
    case = "cosine_mean"
    rng = np.random.default_rng(0)
    shapes: tuple[tuple[int, int, int, int, Dtype], ...] = (
        (16, 196, 768, 4, "float32"),
        (16, 577, 1024, 1, "float32"),
        (16, 577, 1024, 4, "float32"),
        (16, 577, 1024, 4, "float16"),
    )
    for m, tokens, dim, images, dtype in shapes:
        features = from_float32(rng.standard_normal((m, tokens, dim), dtype=np.float32), dtype)
        anchor = np.ones((images, tokens, dim)) / np.sqrt(dim)
        sums, rows = FeatureSums.zeros(images, tokens, dim), make_rows(m, images)
        # Features and anchor are read once; the sums are read and written once.
        size = features.nbytes + anchor.nbytes + 2 * sums.unit.nbytes
        for threads in sorted({1, available_threads()}):
            copied = copy_time(size, threads)
            call = partial(cosine_mean, features, rows, sums, anchor=anchor, threads=threads)
            timing = measure(call, seconds=_SECONDS)
            share = {"share": copied.p50 / timing.p50, "of": "copy bandwidth"}
            variant = f"{m}×{tokens}×{dim} {dtype}, {images} image{'s' * (images > 1)}"
            yield row(case, variant, threads, timing, size / 1e9, "GB/s", **share)


if __name__ == "__main__":
    print(show([*noise(), *resize(), *reduction()]))
