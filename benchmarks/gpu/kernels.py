"""The GPU kernels against torch, eager and compiled, and against what the GPU can do at most.

The ceilings are measured: a kernel that draws Philox words and stores them, and a copy of as many bytes. Every kernel
is compared with the C++ kernel before it is timed. Memory orders and types are those of serving in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.cases import MEAN, SIGMA, STD, make_rows
from benchmarks.measuring.harness import Row, Timing, measure_gpu, row
from export.thresholds import gaussian_thresholds
from fsfast.kernels import Rows, library, noise_tables, resize_tables
from fsfast.kernels.tensors import FLOATS, NoiseTensors, ResizeTensors, RowTensors, SumTensors
from fsfast.kernels.types import Dtype, Layout

DENOISE = (1.03, 0.25)
# How to compile a baseline; None leaves torch.compile out.
Compile = Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None


def unusable() -> str | None:
    """Return why the GPU kernels cannot be measured here, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    return None if torch.cuda.is_available() else "no CUDA GPU"


def compiled(call: Any) -> Any:
    """Compile for one shape, as the back end `torch-compile` does."""
    torch._dynamo.reset()
    return torch.compile(call, dynamic=False)


def copy_time(size: int, device: str) -> Timing:
    """Time a copy that moves `size` bytes in all: half of them read, half written."""
    source = torch.ones(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return measure_gpu(lambda: target.copy_(source))


def noise(
    device: str = "cuda",
    m: int = 64,
    side: int = 224,
    dtypes: Sequence[Dtype] = ("float32", "float16", "bfloat16"),
    layouts: Sequence[Layout] = ("nchw", "nhwc"),
    compile: Compile = compiled,
) -> Iterator[Row]:
    """M × 3 × side × side noisy pixels of four images; the unit is a sample: one noisy value.

    A sample reads 1 byte of the image (again per row) and writes 4 or 2.
    """
    from benchmarks.gpu.philox_store import philox_store
    from fsfast.kernels import cuda

    case, images = (
        "noisy_batch",
        np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8),
    )
    rows, amount = make_rows(m, 4), m * 3 * side * side / 1e9
    given, row_tensors = torch.from_numpy(images).to(device), RowTensors.from_arrays(rows, 4, device)
    x = torch.rand((m, 3, side, side), device=device)

    def with_torch(x: Tensor) -> Tensor:
        return x + SIGMA * torch.randn_like(x)

    eager = measure_gpu(partial(with_torch, x))
    yield row(case, "torch randn", 0, eager, amount, "G samples/s")
    if compile:
        fast = measure_gpu(partial(compile(with_torch), x))
        yield row(case, "torch.compile randn", 0, fast, amount, "G samples/s")
    for dtype in dtypes:
        tables = noise_tables(gaussian_thresholds(SIGMA), np.full(3, 2 / 255), np.full(3, -1.0), dtype)
        tensors = NoiseTensors.from_arrays(tables, device)
        out = cuda.noisy_batch(given, row_tensors, 0, tensors)
        on_cpu = RowTensors.from_arrays(rows, 4, "cpu"), 0, NoiseTensors.from_arrays(tables, "cpu")
        _require_equal(case, out, library.noisy_batch(given.cpu(), *on_cpu))
        words = torch.empty_like(out)
        ceiling = measure_gpu(partial(philox_store, words, row_tensors.seed[:1]))
        yield row(case, f"bare Philox and store, {dtype}", 0, ceiling, amount, "G samples/s")
        for layout in layouts:
            call = partial(cuda.noisy_batch, given, row_tensors, 0, tensors, layout=layout)
            share = ceiling.p50 / (timing := measure_gpu(call)).p50
            variant = f"exact, {dtype}, {layout}"
            yield row(
                case, variant, 0, timing, amount, "G samples/s", share=share, of="bare Philox and store"
            )


def resize(
    device: str = "cuda",
    m: int = 64,
    sizes: tuple[tuple[int, int], ...] = ((256, 224), (256, 336), (224, 224)),
    compile: Compile = compiled,
) -> Iterator[Row]:
    """M images with noise estimates, down and up, and without a change of size.

    x_t and eps_hat are read once, the result is written once.
    """
    from fsfast.kernels import cuda

    case, order = "denoise_resize_normalise", torch.channels_last
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device).reshape(3, 1, 1) for v in (MEAN, STD))
    exact = [torch.from_numpy(v) for v in (MEAN, STD)]
    served: dict[str, Any] = {"dtype": "bfloat16", "layout": "nhwc"}
    for source, target in sizes:
        x, e = torch.randn((2, m, 3, source, source), device=device)
        x, e = x.contiguous(memory_format=order), e.bfloat16().contiguous(memory_format=order)
        tables = resize_tables((source, source), (target, target))
        given = ResizeTensors.from_arrays(tables, device), *(v.to(device) for v in exact)

        def with_torch(x: Tensor, e: Tensor, target: int = target) -> Tensor:
            p = ((DENOISE[0] * x - DENOISE[1] * e).clamp(-1, 1) + 1) / 2
            p = F.interpolate(p, (target, target), mode="bicubic", antialias=True)
            return ((p - mean) / std).bfloat16()

        out = cuda.denoise_resize_normalise(x, e, DENOISE, *given, **served)
        tables_on_cpu = ResizeTensors.from_arrays(tables, "cpu")
        wanted = library.denoise_resize_normalise(x.cpu(), e.cpu(), DENOISE, tables_on_cpu, *exact, **served)
        _require_equal(case, out, wanted)
        size = x.nbytes + e.nbytes + out.nbytes
        copied = copy_time(size, device)
        for name, function in baselines(with_torch, compile):
            timing = measure_gpu(partial(function, x, e))
            yield row(case, f"{name}, {source}→{target}", 0, timing, size / 1e9, "GB/s")
        call = partial(cuda.denoise_resize_normalise, x, e, DENOISE, *given, **served, out=out)
        share = copied.p50 / (timing := measure_gpu(call)).p50
        yield row(case, f"{source}→{target}", 0, timing, size / 1e9, "GB/s", share=share, of="copy bandwidth")


def reduction(
    device: str = "cuda",
    shapes: tuple[tuple[int, int, int, int, Dtype], ...] = (
        (16, 196, 768, 4, "float32"),
        (16, 577, 1024, 1, "float32"),
        (16, 577, 1024, 4, "float32"),
        (16, 577, 1024, 4, "bfloat16"),
    ),
    compile: Compile = compiled,
) -> Iterator[Row]:
    """Tokens of ViT-B/16 at 224 and of ViT-L/14 at 336.

    Features and anchor are read once; the sums are read and written once. (The kernel reads the features twice.)
    """
    from fsfast.kernels import cuda

    case = "cosine_mean"
    for m, tokens, dim, images, dtype in shapes:
        features = torch.randn((m, tokens, dim), device=device).to(FLOATS[dtype])
        anchor = F.normalize(torch.randn((images, tokens, dim), dtype=torch.float64, device=device), dim=-1)
        sums, rows = SumTensors.zeros(images, tokens, dim, device), make_rows(m, images)
        row_tensors = RowTensors.from_arrays(rows, images, device)
        _check_reduction(features, rows, row_tensors, sums, anchor)
        index, others = row_tensors.image.long(), sums.unit.clone()

        def with_torch(
            features: Tensor, anchor: Tensor, index: Tensor = index, unit: Tensor = others
        ) -> Tensor:
            directions = F.normalize(features.double(), dim=-1)
            unit.index_add_(0, index, directions)
            return (1 + (directions * anchor[index]).sum(-1).mean(-1)) / 2

        size = features.nbytes + anchor.nbytes + 2 * sums.unit.nbytes
        copied = copy_time(size, device)
        shape = f"{m}×{tokens}×{dim} {dtype}, {images} image{'s' * (images > 1)}"
        for name, function in baselines(with_torch, compile):
            yield row(
                case,
                f"{name}, {shape}",
                0,
                measure_gpu(partial(function, features, anchor)),
                size / 1e9,
                "GB/s",
            )
        call = partial(cuda.cosine_mean, features, row_tensors, sums, anchor=anchor)
        share = copied.p50 / (timing := measure_gpu(call)).p50
        yield row(case, shape, 0, timing, size / 1e9, "GB/s", share=share, of="copy bandwidth")


def baselines(with_torch: Any, compile: Compile) -> Iterator[tuple[str, Any]]:
    """Yield names and forms of a function of torch's."""
    yield "torch", with_torch
    if compile:
        yield "torch.compile", compile(with_torch)


def _check_reduction(
    features: Tensor, rows: Rows, row_tensors: RowTensors, sums: SumTensors, anchor: Tensor
) -> None:
    from fsfast.kernels import cuda

    images = len(anchor)
    wanted = SumTensors.zeros(*sums.unit.shape, "cpu")
    on_cpu = features.cpu(), RowTensors.from_arrays(rows, images, "cpu"), wanted
    scores = cuda.cosine_mean(features, row_tensors, sums, anchor=anchor)
    _require_equal("cosine_mean", scores, library.cosine_mean(*on_cpu, anchor=anchor.cpu()))
    _require_equal("cosine_mean", sums.unit, wanted.unit)


def _require_equal(case: str, got: Tensor | None, wanted: Tensor | None) -> None:
    """Raise AssertionError unless the bits are equal: no speed is reported of a wrong kernel."""
    assert got is not None
    assert wanted is not None
    if not same_bits(got, wanted):
        raise AssertionError(f"{case}: the GPU's bits are not those of the C++ kernel; run pytest -m gpu")


def same_bits(got: Tensor, wanted: Tensor) -> bool:
    """Whether tensors of one shape and dtype have the same bits, NaNs included, whatever their devices and orders."""
    return torch.equal(*(t.cpu().contiguous().view(torch.uint8) for t in (got, wanted)))
