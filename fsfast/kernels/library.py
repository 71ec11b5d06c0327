"""The kernels as torch operators: `torch.ops.fsfast.*`, in Triton on a GPU.

Those around the networks are defined here and run in C++ on the CPU. Parts of the networks come from
`fsfast.kernels.layers`.

torch.compile and torch.export see each as one node, whose shapes they can tell without running it. The functions
below are the operators with rows, tables and sums as arguments. Nothing is differentiable: gradients go through
`fsfast.models.torch_function.TorchFunction`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsfast.kernels import cpu
from fsfast.kernels.layers import TAGS, group_norm_silu, l2_norm_residual, layer_norm_conv, quick_gelu
from fsfast.kernels.tensors import FLOATS, NoiseTensors, ResizeTensors, RowTensors, SumTensors
from fsfast.kernels.types import AxisTable, Dtype, Layout, NoiseTables, ResizeTables, Rows

__all__ = [
    "cosine_mean",
    "denoise_resize_normalise",
    "group_norm_silu",
    "l2_norm_residual",
    "layer_norm_conv",
    "noisy_batch",
    "quick_gelu",
]

_LIBRARY = torch.library.Library("fsfast", "DEF")


def noisy_batch(
    images: Tensor, rows: RowTensors, stream: int, noise: NoiseTensors, *, layout: Layout = "nchw"
) -> Tensor:
    """Add exact integer Gaussian noise to images: [B, H, W, 3] uint8 → [M, 3, H, W] of the values' dtype.

    See `fsfast.kernels.cpu.noisy_batch`; "nhwc" means torch's channels_last.
    """
    return torch.ops.fsfast.noisy_batch(
        images, rows.image, rows.seed, rows.sample, stream, noise.thresholds, noise.guide, noise.values,
        layout,
    )  # fmt: skip


def denoise_resize_normalise(
    x_t: Tensor,
    eps_hat: Tensor | None,
    denoise: tuple[float, float],
    resize: ResizeTensors,
    mean: Tensor,
    std: Tensor,
    *,
    dtype: Dtype = "float32",
    layout: Layout = "nchw",
) -> Tensor:
    """Turn noisy images and their noise estimates into the encoder's input: [M, 3, H, W] → [M, 3, h, w].

    See `fsfast.kernels.cpu.denoise_resize_normalise`; mean and std are [3] float64.
    """
    tiles = (resize.height, resize.width, resize.span, resize.outputs)
    return torch.ops.fsfast.denoise_resize_normalise(
        x_t, eps_hat, *denoise, resize.row_start, resize.row_weights, resize.column_start, resize.column_weights,
        tiles, mean, std, dtype, layout,
    )  # fmt: skip


def cosine_mean(
    features: Tensor,
    rows: RowTensors,
    sums: SumTensors | None,
    *,
    anchor: Tensor | None = None,
    per_token: bool = False,
) -> Tensor | None:
    """Add the unit tokens of [M, L, D] features to running sums, and score them against an anchor.

    See `fsfast.kernels.cpu.cosine_mean`.
    """
    given = (None,) * 4 if sums is None else (sums.unit, sums.norm, sums.count, sums.raw)
    scores = torch.ops.fsfast.cosine_mean(features, rows.image, *given, anchor, per_token)
    return None if anchor is None else scores


def _array(tensor: Tensor, dtype: type | None = None) -> np.ndarray:
    """Return the memory of a CPU tensor as an array; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array = tensor.numpy()
    return array if dtype is None else array.view(dtype)


def _new(dtype: torch.dtype, shape: tuple[int, ...], layout: str, like: Tensor) -> Tensor:
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=order)


def _written(out: Tensor, layout: str) -> np.ndarray:
    """Return the memory of `out` in the shape that the C++ kernels write."""
    return _array(out if layout == "nchw" else out.permute(0, 2, 3, 1))


# Operators take tensors and numbers one by one: these put them together again, as the functions above have them.
Call = tuple[tuple[Any, ...], dict[str, Any]]


def _noise_call(
    images: Tensor, image: Tensor, seed: Tensor, sample: Tensor, stream: int, thresholds: Tensor, guide: Tensor,
    values: Tensor, layout: Layout,
) -> Call:  # fmt: skip
    noise = NoiseTensors(thresholds, guide, values)
    return (images, RowTensors(image, seed, sample), stream, noise), {"layout": layout}


def _denoise_call(
    x_t: Tensor, eps_hat: Tensor | None, a: float, b: float, row_start: Tensor, row_weights: Tensor,
    column_start: Tensor, column_weights: Tensor, tiles: Sequence[int], mean: Tensor, std: Tensor, dtype: Dtype,
    layout: Layout,
) -> Call:  # fmt: skip
    resize = ResizeTensors(row_start, row_weights, column_start, column_weights, *tiles)
    return (x_t, eps_hat, (a, b), resize, mean, std), {"dtype": dtype, "layout": layout}


def _cosine_call(
    features: Tensor, row_image: Tensor, unit: Tensor | None, norm: Tensor | None, count: Tensor | None,
    raw: Tensor | None, anchor: Tensor | None, per_token: bool,
) -> Call:  # fmt: skip
    # Seeds and samples are not read.
    rows = RowTensors(row_image, row_image, row_image)
    sums = None
    if unit is not None and norm is not None and count is not None:
        sums = SumTensors(unit, norm, count, raw)
    return (features, rows, sums), {"anchor": anchor, "per_token": per_token}


def _noisy_batch_fake(
    images: Tensor, rows: RowTensors, stream: int, noise: NoiseTensors, *, layout: Layout
) -> Tensor:
    return _new(noise.values.dtype, (rows.image.shape[0], 3, *images.shape[1:3]), layout, images)


def _noisy_batch_cpu(
    images: Tensor, rows: RowTensors, stream: int, noise: NoiseTensors, *, layout: Layout
) -> Tensor:
    out = _noisy_batch_fake(images, rows, stream, noise, layout=layout)
    cpu.noisy_batch(
        _array(images),
        Rows(_array(rows.image), _array(rows.seed, np.uint64), _array(rows.sample, np.uint32)),
        stream,
        NoiseTables(
            _array(noise.thresholds, np.uint64), _array(noise.guide, np.uint32), _array(noise.values)
        ),
        layout=layout,
        out=_written(out, layout),
        threads=torch.get_num_threads(),
    )
    return out


def _denoise_resize_normalise_fake(
    x_t: Tensor, eps_hat: Tensor | None, denoise: tuple[float, float], resize: ResizeTensors, mean: Tensor,
    std: Tensor, *, dtype: Dtype, layout: Layout,
) -> Tensor:  # fmt: skip
    size = (resize.row_start.shape[0], resize.column_start.shape[0])
    return _new(FLOATS[dtype], (x_t.shape[0], 3, *size), layout, x_t)


def _denoise_resize_normalise_cpu(
    x_t: Tensor, eps_hat: Tensor | None, denoise: tuple[float, float], resize: ResizeTensors, mean: Tensor,
    std: Tensor, *, dtype: Dtype, layout: Layout,
) -> Tensor:  # fmt: skip
    out = _denoise_resize_normalise_fake(x_t, eps_hat, denoise, resize, mean, std, dtype=dtype, layout=layout)
    cpu.denoise_resize_normalise(
        _array(x_t),
        None if eps_hat is None else _array(eps_hat),
        denoise,
        ResizeTables(
            AxisTable(_array(resize.row_start), _array(resize.row_weights), resize.height),
            AxisTable(_array(resize.column_start), _array(resize.column_weights), resize.width),
        ),
        _array(mean),
        _array(std),
        dtype=dtype,
        layout=layout,
        out=_written(out, layout),
        threads=torch.get_num_threads(),
    )
    return out


def _cosine_mean_fake(
    features: Tensor, rows: RowTensors, sums: SumTensors | None, *, anchor: Tensor | None, per_token: bool
) -> Tensor:
    # Without an anchor the result is empty: operators cannot return None.
    shape = (0,) if anchor is None else features.shape[: 2 if per_token else 1]
    return features.new_empty(shape, dtype=torch.float64)


def _cosine_mean_cpu(
    features: Tensor, rows: RowTensors, sums: SumTensors | None, *, anchor: Tensor | None, per_token: bool
) -> Tensor:
    image = _array(rows.image)
    scores = cpu.cosine_mean(
        _array(features),
        Rows(image, np.zeros(len(image), np.uint64), np.zeros(len(image), np.uint32)),
        # On the CPU these share the tensors' memory.
        None if sums is None else sums.to_arrays(),
        anchor=None if anchor is None else _array(anchor),
        per_token=per_token,
        threads=torch.get_num_threads(),
    )
    return torch.from_numpy(np.empty(0) if scores is None else scores)


def _cosine_mean_cuda(
    features: Tensor, rows: RowTensors, sums: SumTensors | None, *, anchor: Tensor | None, per_token: bool
) -> Tensor:
    from fsfast.kernels import cuda

    scores = cuda.cosine_mean(features, rows, sums, anchor=anchor, per_token=per_token)
    return features.new_empty(0, dtype=torch.float64) if scores is None else scores


def _on_cuda(name: str) -> Callable[..., Tensor]:
    """Return a kernel of `fsfast.kernels.cuda`, which is imported when it is first called: it needs Triton."""

    def launch(*arguments: Any, **options: Any) -> Tensor:
        from fsfast.kernels import cuda

        out: Tensor = getattr(cuda, name)(*arguments, **options)
        return out

    return launch


def _operator(
    schema: str,
    call: Callable[..., Call],
    *,
    fake: Callable[..., Tensor],
    cpu: Callable[..., Tensor],
    cuda: Callable[..., Tensor],
) -> None:
    """Define an operator.

    Args:
        schema: as torch writes it.
        call: makes the arguments of the other three of the operator's.
        fake: tells the result's shape and type.
        cpu, cuda: compute it.
    """

    def taking_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def taken(*arguments: Any) -> Tensor:
            given, options = call(*arguments)
            return function(*given, **options)

        return taken

    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=TAGS)
    _LIBRARY.impl(name, taking_tensors(cpu), "CPU")
    _LIBRARY.impl(name, taking_tensors(cuda), "CUDA")
    torch.library.register_fake(f"fsfast::{name}", taking_tensors(fake), lib=_LIBRARY)


_operator(
    "noisy_batch(Tensor images, Tensor row_image, Tensor row_seed, Tensor row_sample, int stream, "
    "Tensor thresholds, Tensor guide, Tensor values, str layout) -> Tensor",
    _noise_call,
    fake=_noisy_batch_fake,
    cpu=_noisy_batch_cpu,
    cuda=_on_cuda("noisy_batch"),
)
_operator(
    "denoise_resize_normalise(Tensor x_t, Tensor? eps_hat, float a, float b, Tensor row_start, Tensor row_weights, "
    "Tensor column_start, Tensor column_weights, int[] tiles, Tensor mean, Tensor std, str dtype, str layout) "
    "-> Tensor",
    _denoise_call,
    fake=_denoise_resize_normalise_fake,
    cpu=_denoise_resize_normalise_cpu,
    cuda=_on_cuda("denoise_resize_normalise"),
)
_operator(
    "cosine_mean(Tensor features, Tensor row_image, Tensor(a!)? unit, Tensor(b!)? norm, Tensor(c!)? count, "
    "Tensor(d!)? raw, Tensor? anchor, bool per_token) -> Tensor",
    _cosine_call,
    fake=_cosine_mean_fake,
    cpu=_cosine_mean_cpu,
    cuda=_cosine_mean_cuda,
)
