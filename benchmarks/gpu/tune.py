"""Choose how much work a program of each GPU kernel takes, by measuring on this GPU: `python -m benchmarks.gpu.tune`.

Writes the GPU's table to fsfast/kernels/cuda/tables/, from where the kernels read it. Tuning is offline: nothing is
measured while serving, and no choice changes a bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.kernels import DENOISE, unusable
from benchmarks.measuring.cases import MEAN, SIGMA, STD, make_rows
from benchmarks.measuring.harness import measure_gpu
from export.thresholds import gaussian_thresholds
from fsfast.files import write_whole
from fsfast.kernels import noise_tables, resize_tables
from fsfast.kernels.tensors import NoiseTensors, ResizeTensors, RowTensors, SumTensors

# kernel → blocks to try; warps are tried for each.
BLOCKS: dict[str, Sequence[int]] = {
    "noisy_batch": (512, 1024, 2048, 4096),
    "denoise_resize_normalise": (8, 16, 32),
    "cosine_mean.products": (8, 16, 32),
    "cosine_mean.sums": (256, 512, 1024),
    "group_norm_silu.moments": (256, 512, 1024, 2048),
    "group_norm_silu.normalise": (256, 512, 1024, 2048),
    "quick_gelu": (1024, 2048, 4096),
    "layer_norm_conv": (4, 8, 16, 32),
    "l2_norm_residual": (1, 2, 4),
}
WARPS = (1, 2, 4, 8)


def calls(
    device: str, m: int = 64, side: int = 224, tokens: int = 577, dim: int = 1024, channels: int = 256
) -> dict[str, Callable]:
    """Return kernel → a function that runs it with a setting, at usual sizes."""
    parts = _part_calls(device, max(1, m // 4), side, tokens, dim, channels)
    return _surrounding_calls(device, m, side, tokens, dim) | parts


def _surrounding_calls(device: str, m: int, side: int, tokens: int, dim: int) -> dict[str, Callable]:
    """Of the kernels around the networks."""
    from fsfast.kernels import cuda
    from fsfast.kernels.cuda.settings import setting

    rows = RowTensors.from_arrays(make_rows(m, 4), 4, device)
    images = torch.zeros((4, side, side, 3), dtype=torch.uint8, device=device)
    tables = noise_tables(gaussian_thresholds(SIGMA), np.full(3, 2 / 255), np.full(3, -1.0), "float32")
    noise = NoiseTensors.from_arrays(tables, device)
    source = side * 8 // 7
    x_t = torch.randn((m, 3, source, source), device=device)
    resize = ResizeTensors.from_arrays(resize_tables((source, source), (side, side)), device)
    mean, std = (torch.from_numpy(v).to(device) for v in (MEAN, STD))
    features = torch.randn((m, tokens, dim), device=device)
    sums, anchor = (
        SumTensors.zeros(4, tokens, dim, device),
        torch.zeros((4, tokens, dim), device=device).double(),
    )
    products, adding = (setting(f"cosine_mean.{step}", features.device) for step in ("products", "sums"))

    def reduce(*tunings: object) -> None:
        cuda.cosine_mean(features, rows, sums, anchor=anchor, tunings=tunings)  # type: ignore[arg-type]

    return {
        "noisy_batch": lambda tuning: cuda.noisy_batch(images, rows, 0, noise, tuning=tuning),
        "denoise_resize_normalise": lambda tuning: cuda.denoise_resize_normalise(
            x_t, x_t, DENOISE, resize, mean, std, tuning=tuning
        ),
        "cosine_mean.products": lambda tuning: reduce(tuning, adding),
        "cosine_mean.sums": lambda tuning: reduce(products, tuning),
    }


def _part_calls(device: str, m: int, side: int, tokens: int, dim: int, channels: int) -> dict[str, Callable]:
    """Of the parts of the networks, in bfloat16."""
    from fsfast.kernels import cuda
    from fsfast.kernels.cuda.settings import setting

    half = torch.bfloat16
    x = torch.randn((m, channels, side, side), device=device).to(half, memory_format=torch.channels_last)
    affine = torch.zeros((2, channels), dtype=half, device=device)
    z = torch.randn((m, tokens, dim), device=device).to(half)
    weight, taps = z.new_zeros(dim), z.new_zeros((dim, 1, 3))
    moments, writing = (setting(f"group_norm_silu.{step}", x.device) for step in ("moments", "normalise"))

    def norm(*tunings: object) -> None:
        cuda.group_norm_silu(x, affine[0], affine[1], 32, tunings=tunings)  # type: ignore[arg-type]

    return {
        "group_norm_silu.moments": lambda tuning: norm(tuning, writing),
        "group_norm_silu.normalise": lambda tuning: norm(moments, tuning),
        "quick_gelu": lambda tuning: cuda.quick_gelu(z.flatten(0, 1), tuning=tuning),
        "layer_norm_conv": lambda tuning: cuda.layer_norm_conv(
            z, weight, weight, taps, weight, tuning=tuning
        ),
        "l2_norm_residual": lambda tuning: cuda.l2_norm_residual(z, z, z, z, weight, weight, tuning=tuning),
    }


def best(kernel: str, call: Callable) -> dict[str, int]:
    """Return the fastest setting of a kernel."""
    from fsfast.kernels.cuda.settings import Setting

    times = {}
    for block, warps in product(BLOCKS[kernel], WARPS):
        candidate = Setting(block, warps)
        times[candidate] = measure_gpu(lambda candidate=candidate: call(candidate)).p50
        print(f"{kernel:<26}{block:>6}{warps:>4}{times[candidate] * 1e6:>10.2f} µs")
    return asdict(min(times, key=times.__getitem__))


def main(argv: list[str] | None = None) -> int:
    """Measure every kernel and write this GPU's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tune", description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write (default: this GPU's table in the package)")
    args = parser.parse_args(argv)
    if why := unusable():
        parser.error(why)
    from fsfast.kernels.cuda import settings

    target = args.out or settings.FOLDER / settings.table_name(torch.cuda.get_device_name())
    table = {kernel: best(kernel, call) for kernel, call in calls("cuda").items()}
    lines = ",\n".join(f"  {json.dumps(kernel)}: {json.dumps(choice)}" for kernel, choice in table.items())
    write_whole(target, f"{{\n{lines}\n}}\n".encode())
    print(f"→ {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
