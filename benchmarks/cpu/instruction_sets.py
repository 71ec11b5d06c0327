"""The kernels on every instruction set of this processor, each forced, against torch held to the same one.

One core. `cases` runs a process per instruction set: torch chooses its own when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.cpu.kernels import torch_denoise
from benchmarks.measuring.cases import MEAN, SIGMA, STD, make_rows
from benchmarks.measuring.harness import Row, measure_together, row
from export.thresholds import gaussian_thresholds
from fsfast.kernels import (
    FeatureSums,
    cosine_mean,
    denoise_resize_normalise,
    noise_tables,
    noisy_batch,
    resize_tables,
)
from fsfast.kernels import cpu as kernels
from fsfast.kernels.casts import from_float32
from fsfast.kernels.types import Dtype

# Ours → torch's ATEN_CPU_CAPABILITY.
TORCH = {"sse2": "default", "avx2": "avx2", "avx512": "avx512", "neon": "default"}
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
_RUNS = 41


def cases() -> Iterator[Row]:
    """Every instruction set, forced in a process of its own."""
    for name in kernels.INSTRUCTION_SETS:
        environment = {"FSFAST_INSTRUCTION_SET": name, "ATEN_CPU_CAPABILITY": TORCH[name]}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.cpu.instruction_sets"],
            cwd=Path(__file__).parents[2],
            env=os.environ | environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        yield from (Row(**record) for record in json.loads(done.stdout))


def measured(runs: int = _RUNS) -> Iterator[Row]:
    """The kernels on the instruction set of this process; runs of ours and of torch take turns."""
    torch.set_num_threads(1)
    for dtype in DTYPES:
        yield _noise(dtype, runs)
    for dtype in DTYPES:
        for source, target in ((256, 224), (256, 336), (224, 224)):
            yield _resize(dtype, source, target, runs)
    for dtype in DTYPES:
        yield _reduction(dtype, runs)


def _compared(
    case: str,
    variant: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    amount: float,
    *,
    unit: str,
    of: str,
    runs: int,
) -> Row:
    times = measure_together({"ours": ours, of: other}, runs=runs)
    share = times[of].p50 / times["ours"].p50
    return row(
        case, f"{kernels.instruction_set()}, {variant}", 1, times["ours"], amount, unit, share=share, of=of
    )


def _noise(dtype: Dtype, runs: int) -> Row:
    """4 × 3 × 224 × 224 values; torch draws, scales and adds in float32."""
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    tables = noise_tables(gaussian_thresholds(SIGMA), np.full(3, 2 / 255), np.full(3, -1.0), dtype)
    rows = make_rows(4, 4)
    out = noisy_batch(images, rows, 0, tables)
    x, drawn = torch.rand(images.size), torch.empty(images.size)
    return _compared(
        "noisy_batch",
        dtype,
        partial(noisy_batch, images, rows, 0, tables, out=out),
        lambda: drawn.normal_().mul_(SIGMA).add_(x),
        images.size / 1e9,
        unit="G samples/s",
        of="torch",
        runs=runs,
    )


def _resize(dtype: Dtype, source: int, target: int, runs: int) -> Row:
    """Four images, three channels of their noise estimates; torch computes in float32, from and to the same type."""
    rng = np.random.default_rng(0)
    x_t, eps_hat = (rng.standard_normal((4, 3, source, source), dtype=np.float32) for _ in range(2))
    tables = resize_tables((source, source), (target, target))
    given = [from_float32(array, dtype) for array in (x_t, eps_hat)]
    out = denoise_resize_normalise(*given, (1.03, 0.25), tables, MEAN, STD, dtype=dtype)
    kind = getattr(torch, dtype)
    tensors = [torch.from_numpy(array).to(kind) for array in (x_t, eps_hat)]
    return _compared(
        "denoise_resize_normalise",
        f"{dtype}, {source}→{target}",
        partial(denoise_resize_normalise, *given, (1.03, 0.25), tables, MEAN, STD, dtype=dtype, out=out),
        lambda: torch_denoise(*(tensor.float() for tensor in tensors), target).to(kind),
        (2 * given[0].nbytes + out.nbytes) / 1e9,
        unit="GB/s",
        of="torch",
        runs=runs,
    )


def _reduction(dtype: Dtype, runs: int) -> Row:
    """16 samples of four images, tokens of ViT-L/14 at 336; against a copy that moves as many bytes."""
    features = from_float32(
        np.random.default_rng(0).standard_normal((16, 577, 1024), dtype=np.float32), dtype
    )
    anchor = np.ones((4, 577, 1024)) / 32
    sums, rows = FeatureSums.zeros(4, 577, 1024), make_rows(16, 4)
    size = features.nbytes + anchor.nbytes + 2 * sums.unit.nbytes
    source = torch.ones(size // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return _compared(
        "cosine_mean",
        f"{dtype}, 16×577×1024",
        partial(cosine_mean, features, rows, sums, anchor=anchor),
        lambda: target.copy_(source),
        size / 1e9,
        unit="GB/s",
        of="copy bandwidth",
        runs=runs,
    )


if __name__ == "__main__":
    print(json.dumps([asdict(found) for found in measured()]))
