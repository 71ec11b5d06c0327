"""Checks of tensor arguments: what was wanted, what came, and the remedy. Nothing is read back from the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsfast.kernels.float_guide import fraction_bits
from fsfast.kernels.tensors import FLOATS, NoiseTensors, RowTensors, SumTensors
from fsfast.kernels.types import Layout

# Elements of one image are numbered in 32 bits.
MAX_ELEMENTS = 2**30


def check_tensor(
    name: str,
    tensor: Tensor,
    dtypes: torch.dtype | Sequence[torch.dtype],
    shape: Sequence[int | None],
    device: torch.device,
    *,
    packed: bool = True,
) -> None:
    """Raise TypeError or ValueError unless `tensor` fits; None in `shape` stands for any length."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: wanted a torch tensor, got {type(tensor).__name__}; use .from_arrays()")
    wanted = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
    if tensor.dtype not in wanted:
        names = ", ".join(str(d).removeprefix("torch.") for d in wanted)
        raise TypeError(f"{name}: wanted {names}, got {tensor.dtype}; convert with .to()")
    matches = tensor.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not matches:
        lengths = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: wanted shape [{lengths}], got {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name}: wanted a tensor on {device}, got {tensor.device}; move it with .to()")
    if packed and not tensor.is_contiguous():
        raise ValueError(f"{name}: wanted a contiguous tensor; pass .contiguous()")


def check_rows(rows: RowTensors, device: torch.device) -> None:
    """Raise TypeError or ValueError unless `rows` is consistent."""
    m = len(rows.image)
    check_tensor("rows.image", rows.image, torch.int32, (m,), device)
    check_tensor("rows.seed", rows.seed, torch.int64, (m,), device)
    check_tensor("rows.sample", rows.sample, torch.int32, (m,), device)


def check_noise(noise: NoiseTensors, device: torch.device) -> None:
    """Raise TypeError or ValueError unless the tables fit each other."""
    count = len(noise.thresholds)
    check_tensor("noise.thresholds", noise.thresholds, torch.int64, (count,), device)
    check_tensor("noise.values", noise.values, tuple(FLOATS.values()), (3, 256 + count), device)
    check_tensor("noise.guide", noise.guide, torch.int32, (None,), device)
    if len(noise.guide):
        fraction_bits(len(noise.guide))


def check_sums(sums: SumTensors, images: int | None, tokens: int, dim: int, device: torch.device) -> int:
    """Raise TypeError or ValueError unless `sums` fits; return its number of images."""
    if images is None:
        images = len(sums.count)
    check_tensor("sums.count", sums.count, torch.int64, (images,), device)
    check_tensor("sums.unit", sums.unit, torch.float64, (images, tokens, dim), device)
    check_tensor("sums.norm", sums.norm, torch.float64, (images, tokens), device)
    if sums.raw is not None:
        check_tensor("sums.raw", sums.raw, torch.float64, (images, tokens, dim), device)
    return images


def check_layout(layout: str) -> None:
    """Raise ValueError unless the memory order is known."""
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f"layout: wanted 'nchw' or 'nhwc', got {layout!r}")


def memory_format(layout: Layout) -> torch.memory_format:
    """Return torch's name of a memory order."""
    return torch.channels_last if layout == "nhwc" else torch.contiguous_format


def new_or_given(
    out: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...], layout: Layout, device: torch.device
) -> Tensor:
    """Return `out` if it has this dtype, shape and memory order, or a new tensor for None."""
    order = memory_format(layout)
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=order)
    check_tensor("out", out, dtype, shape, device, packed=False)
    if not out.is_contiguous(memory_format=order):
        raise ValueError(
            f"out: wanted a packed tensor in {layout} order; allocate it with memory_format={order}"
        )
    return out
