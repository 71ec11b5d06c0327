"""group_norm_silu in Triton: GroupNorm and, if asked for, SiLU after it, on channels_last tensors.

Statistics are float32: per channel over a part of the pixels by Welford's updates, then over all parts and channels of
a group by Chan's formula. Neither subtracts large sums, so a large mean beside a small variance costs no digits. The
order depends on the image's size and channels alone: not on the number of rows, nor on a block size.

Three kernels, because a group's mean must be known before any of it is written:
1. `channel_moments`: per row, part and channel the mean and the sum of squared deviations. Part p of P holds the pixels
   p, p + P, …: at every step neighbouring programs read neighbouring memory.
2. `group_moments`: per row and group the mean and 1/√(variance + ε).
3. `normalise`: (x − mean)·scale + bias, SiLU, cast. Backwards: what step 1 read last is still in the cache.

Bytes: x read twice (once from memory where all rows fit into the second-level cache), the result written once. The
parts add 8 bytes written and read per part and channel: at most 512 parts, of 32 pixels or more in all but tiny images.
Operations of one number, in float32: 6 and a share of a division for the moments, 3 to normalise, for SiLU an
exponential, an addition and a division. The exponential is 2 to the power of a rounded product; it and the division are
the GPU's approximations, 2 units in the last place each.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.reduce import levels, pairwise_sum
from fsfast.kernels.cuda.settings import Setting, setting

# Both are part of the order: another number gives other bits.
_MOST_PARTS = 512
_FEWEST_PIXELS = 32
# Partial moments of a group that step 2 holds at once; part of the order, too.
_MOST_LANES = 1024
# Loads that are under way together.
_UNROLL = 4
# Pixel blocks of a program of step 3, which share one read of the affine.
_STEPS = 4
# 64 bytes of 16-bit channels: two sectors of memory.
_FEWEST_CHANNELS = 32


@triton.jit
def channel_moments_kernel(
    x_ptr,
    means_ptr,
    squares_ptr,
    channels,
    pixels,
    parts,
    steps,
    part_blocks,
    channel_blocks,
    WHOLE: tl.constexpr,
    UNROLL: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: PARTS parts of the pixels of one row, CHANNELS channels; WHOLE: all parts have `steps` pixels."""
    program = tl.program_id(0)
    channel_block, block = program % channel_blocks, program // channel_blocks
    part_block, row = block % part_blocks, (block // part_blocks).to(tl.int64)
    c = channel_block * CHANNELS + tl.arange(0, CHANNELS)
    part = part_block * PARTS + tl.arange(0, PARTS)
    used = (part < parts)[:, None] & (c < channels)[None, :]
    row_ptr = x_ptr + row * pixels * channels
    mean = tl.zeros([PARTS, CHANNELS], tl.float32)
    square = tl.zeros([PARTS, CHANNELS], tl.float32)
    count = tl.zeros([1, 1], tl.float32)
    for first in range(0, steps, UNROLL):
        for step in tl.static_range(UNROLL):
            pixel = (first + step) * parts + part
            mask = used if WHOLE else used & (pixel < pixels)[:, None]
            x = tl.load(row_ptr + pixel[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
            deviation = x - mean
            if not WHOLE:
                deviation = tl.where(mask, deviation, 0.0)
            count += 1.0
            mean += deviation * tl.div_rn(1.0, count)
            square += deviation * (x - mean)
    place = (row * parts + part[:, None]) * channels + c[None, :]
    tl.store(means_ptr + place, mean, mask=used)
    tl.store(squares_ptr + place, square, mask=used)


@triton.jit(do_not_specialize=["pixels", "width"])
def group_moments_kernel(
    means_ptr,
    squares_ptr,
    moments_ptr,
    channels,
    pixels,
    parts,
    groups,
    width,
    eps,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """One program: one group of one row, `width` channels; LANES partial moments at a time."""
    program = tl.program_id(0)
    row, group = (program // groups).to(tl.int64), program % groups
    first_ptr = row * parts * channels + group * width
    # Everything is relative to one of the means: what is summed is as small as the spread.
    origin = tl.load(means_ptr + first_ptr)
    total = tl.zeros([LANES], tl.float32)
    for first in range(0, parts * width, LANES):
        i = first + tl.arange(0, LANES)
        part = i // width
        mean = tl.load(means_ptr + first_ptr + part * channels + i % width, mask=part < parts, other=0.0)
        count = (pixels // parts + (part < pixels % parts)).to(tl.float32)
        total += tl.where(part < parts, (mean - origin) * count, 0.0)
    numbers = (pixels * width).to(tl.float32)
    shift = tl.div_rn(pairwise_sum(tl.reshape(total, (1, LANES)), 1, LANES, LEVELS), numbers)
    total = tl.zeros([LANES], tl.float32)
    for first in range(0, parts * width, LANES):
        i = first + tl.arange(0, LANES)
        part = i // width
        place = first_ptr + part * channels + i % width
        mean = tl.load(means_ptr + place, mask=part < parts, other=0.0)
        square = tl.load(squares_ptr + place, mask=part < parts, other=0.0)
        count = (pixels // parts + (part < pixels % parts)).to(tl.float32)
        deviation = mean - origin - shift
        total += tl.where(part < parts, square + deviation * deviation * count, 0.0)
    variance = tl.div_rn(pairwise_sum(tl.reshape(total, (1, LANES)), 1, LANES, LEVELS), numbers)
    to = moments_ptr + (row * groups + group) * 2 + tl.arange(0, 1)
    tl.store(to, origin + shift)
    tl.store(to + 1, tl.div_rn(1.0, tl.sqrt_rn(variance + eps)))


@triton.jit
def normalise_kernel(
    x_ptr,
    out_ptr,
    moments_ptr,
    weight_ptr,
    bias_ptr,
    channels,
    pixels,
    groups,
    width,
    pixel_blocks,
    channel_blocks,
    SILU: tl.constexpr,
    STEPS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: STEPS times PIXELS pixels of one row, CHANNELS channels."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    channel_block, block = program % channel_blocks, program // channel_blocks
    pixel_block, row = block % pixel_blocks, (block // pixel_blocks).to(tl.int64)
    c = channel_block * CHANNELS + tl.arange(0, CHANNELS)
    used = c < channels
    moments = moments_ptr + (row * groups + c // width) * 2
    mean = tl.load(moments, mask=used, other=0.0)
    scale = tl.load(moments + 1, mask=used, other=0.0)
    scale *= tl.load(weight_ptr + c, mask=used, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=used, other=0.0).to(tl.float32)
    row_place = row * pixels * channels
    for step in tl.static_range(STEPS):
        pixel = (pixel_block * STEPS + step) * PIXELS + tl.arange(0, PIXELS)
        place = row_place + pixel[:, None] * channels + c[None, :]
        mask = (pixel < pixels)[:, None] & used[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        y = (x - mean[None, :]) * scale[None, :] + bias[None, :]
        if SILU:
            # Not rounded to nearest, as only here: a correctly rounded quotient would take a third more instructions.
            y = y / (1.0 + tl.exp(-y))
        tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-5,
    silu: bool = True,
    out: Tensor | None = None,
    tunings: tuple[Setting, Setting] | None = None,
) -> Tensor:
    """Normalise groups of channels, scale and shift, and apply SiLU, on a GPU.

    In torch: F.silu(F.group_norm(x, groups, weight, bias, eps)), rounded once. A row's bits depend on no other row.

    Args:
        x: [M, C, H, W] float32, float16 or bfloat16, packed in channels_last order; at most 2^30 values per row.
        weight, bias: [C] of the same dtype.
        groups: divides C.
        eps: is added to variances.
        silu: False leaves SiLU out.
        out: tensor to write to, or None for a new one; it may be x.
        tunings: numbers of a program of step 1, of one pixel block of step 3; None: from the table of this GPU.
            Changes no bit.

    Returns:
        [M, C, H, W], channels_last, of x's dtype. In float32 within 2e-7 of the largest |y| for means up to a standard
        deviation, 2e-6 at 100 (against float64, up to 38,400 numbers per group, in the interpreter).

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type, memory order or device.
    """
    m, channels, pixels = _check(x, weight, bias, groups)
    out = checks.new_or_given(out, x.dtype, tuple(x.shape), "nhwc", x.device)
    if not m:
        return out
    adding, writing = tunings or tuple(
        setting(f"group_norm_silu.{step}", x.device) for step in ("moments", "normalise")
    )
    shape = {"channels": channels, "pixels": pixels, "groups": groups, "width": channels // groups}
    moments = _moments(x, shape, eps, adding)
    tile = _channel_tile(channels, writing.block)
    rows = max(1, writing.block // tile)
    pixel_blocks, channel_blocks = blocks(pixels, rows * _STEPS), blocks(channels, tile)
    Launch(
        kernel=normalise_kernel,
        programs=m * pixel_blocks * channel_blocks,
        arguments={
            **shape,
            "x_ptr": x,
            "out_ptr": out,
            "moments_ptr": moments,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "pixel_blocks": pixel_blocks,
            "channel_blocks": channel_blocks,
            "SILU": silu,
            "STEPS": _STEPS,
            "PIXELS": rows,
            "CHANNELS": tile,
        },
        num_warps=writing.num_warps,
    ).run()
    return out


def _moments(x: Tensor, shape: dict[str, int], eps: float, tuning: Setting) -> Tensor:
    """Return [M, G, 2] float32: per group the mean and 1/√(variance + eps)."""
    m, channels, pixels = len(x), shape["channels"], shape["pixels"]
    parts = min(_MOST_PARTS, max(1, pixels // _FEWEST_PIXELS))
    tile = _channel_tile(channels, tuning.block)
    rows = min(max(1, tuning.block // tile), triton.next_power_of_2(parts))
    part_blocks, channel_blocks = blocks(parts, rows), blocks(channels, tile)
    means, squares = x.new_empty((2, m, parts, channels), dtype=torch.float32)
    partial = {"means_ptr": means, "squares_ptr": squares, "parts": parts}
    Launch(
        kernel=channel_moments_kernel,
        programs=m * part_blocks * channel_blocks,
        arguments={
            **partial,
            "x_ptr": x,
            "channels": channels,
            "pixels": pixels,
            "steps": blocks(pixels, parts),
            "part_blocks": part_blocks,
            "channel_blocks": channel_blocks,
            "WHOLE": pixels % (parts * _UNROLL) == 0,
            "UNROLL": _UNROLL,
            "PARTS": rows,
            "CHANNELS": tile,
        },
        num_warps=tuning.num_warps,
    ).run()
    return _group_moments(partial, shape, m, eps)


def _group_moments(partial: dict[str, Any], shape: dict[str, int], m: int, eps: float) -> Tensor:
    groups, parts = shape["groups"], partial["parts"]
    moments = partial["means_ptr"].new_empty((m, groups, 2))
    lanes = min(_MOST_LANES, triton.next_power_of_2(parts * shape["width"]))
    Launch(
        kernel=group_moments_kernel,
        programs=m * groups,
        arguments={
            **partial,
            **shape,
            "moments_ptr": moments,
            "eps": eps,
            "LANES": lanes,
            "LEVELS": levels(lanes),
        },
        num_warps=4,
    ).run()
    return moments


def _channel_tile(channels: int, block: int) -> int:
    """Return how many channels a program takes: a power of two that divides them, where that is not too few."""
    divisor = channels & -channels
    return min(block, divisor if divisor >= _FEWEST_CHANNELS else triton.next_power_of_2(channels))


def _check(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[int, int, int]:
    """Raise TypeError or ValueError unless the arguments fit each other; return M, C and H·W."""
    checks.check_tensor(
        "x", x, tuple(checks.FLOATS.values()), (None, None, None, None), x.device, packed=False
    )
    m, channels, height, width = x.shape
    if not 0 < channels * height * width <= checks.MAX_ELEMENTS:
        raise ValueError(f"x: wanted 1 to 2^30 values per row, got {channels} × {height} × {width}")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            "x: wanted a packed tensor in channels_last order; pass .contiguous(memory_format=torch.channels_last)"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        checks.check_tensor(name, tensor, x.dtype, (channels,), x.device)
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: wanted a divisor of the {channels} channels, got {groups}")
    return m, channels, height * width
