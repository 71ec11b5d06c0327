"""group_norm_silu in Triton: GroupNorm and, if asked for, SiLU after it, on channels_last tensors.

The channels may come from two tensors, a network's and a skip connection's, which need not be concatenated first; and a
constant per channel, such as the bias of the convolution before, may be added to them on the way.

Statistics are float32: per channel over a part of the pixels by Welford's updates, then over all parts and channels of
a group by Chan's formula. Neither subtracts large sums, so a large mean beside a small variance costs no digits. The
order depends on the image's size and channels alone: not on the number of rows, nor on a block size.

Three kernels, because a group's mean must be known before any of it is written:
1. `channel_moments`: per row, part and channel the mean and the sum of squared deviations. Part p of P holds the pixels
   p, p + P, …: at every step neighbouring programs read neighbouring memory.
2. `group_moments`: per row and group the mean and 1/√(variance + ε).
3. `normalise`: (x − mean)·scale + bias, SiLU, cast. Backwards: what step 1 read last is still in the cache.

Small images (`_SMALL_PIXELS`) take one kernel, `whole_group`: a program reads one group of one row three times, twice
of it from its multiprocessor's own cache. Sums are relative to the group's first number, and pairwise at the end.

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
# Pixels up to which one program takes a whole group, the most channels of such a group, and the numbers that it takes
# at once; part of the order, too.
_SMALL_PIXELS = 1024
_SMALL_WIDTH = 128
_SMALL_BLOCK = 1024


@triton.jit
def _channels_of(
    x_ptr,
    skip_ptr,
    offset_ptr,
    row,
    pixel,
    c,
    pixels,
    own,
    channels,
    mask,
    SKIP: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """Load [PIXELS, CHANNELS] float32: `own` channels from x, the others from the skip connection."""
    if SKIP:
        first = c[None, :] < own
        place = row * pixels * own + pixel[:, None] * own + c[None, :]
        x = tl.load(x_ptr + place, mask=mask & first, other=0.0).to(tl.float32)
        others = channels - own
        place = row * pixels * others + pixel[:, None] * others + (c[None, :] - own)
        skip = tl.load(skip_ptr + place, mask=mask & (c[None, :] >= own), other=0.0).to(tl.float32)
        x = tl.where(first, x, skip)
    else:
        place = row * pixels * channels + pixel[:, None] * channels + c[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if OFFSET:
        offset = tl.load(offset_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
        x = tl.where(mask, x + offset[None, :], 0.0)
    return x


@triton.jit
def channel_moments_kernel(
    x_ptr,
    skip_ptr,
    offset_ptr,
    means_ptr,
    squares_ptr,
    own,
    channels,
    pixels,
    parts,
    steps,
    part_blocks,
    channel_blocks,
    SKIP: tl.constexpr,
    OFFSET: tl.constexpr,
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
    mean = tl.zeros([PARTS, CHANNELS], tl.float32)
    square = tl.zeros([PARTS, CHANNELS], tl.float32)
    count = tl.zeros([1, 1], tl.float32)
    for first in range(0, steps, UNROLL):
        for step in tl.static_range(UNROLL):
            pixel = (first + step) * parts + part
            mask = used if WHOLE else used & (pixel < pixels)[:, None]
            x = _channels_of(
                x_ptr, skip_ptr, offset_ptr, row, pixel, c, pixels, own, channels, mask, SKIP, OFFSET
            )
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
    skip_ptr,
    offset_ptr,
    out_ptr,
    moments_ptr,
    weight_ptr,
    bias_ptr,
    own,
    channels,
    pixels,
    groups,
    width,
    pixel_blocks,
    channel_blocks,
    SKIP: tl.constexpr,
    OFFSET: tl.constexpr,
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
        x = _channels_of(
            x_ptr, skip_ptr, offset_ptr, row, pixel, c, pixels, own, channels, mask, SKIP, OFFSET
        )
        y = _affine(x, mean, scale, bias, SILU)
        tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _affine(x, mean, scale, bias, SILU: tl.constexpr):
    """Return (x − mean)·scale + bias of [PIXELS, CHANNELS], with SiLU if asked for."""
    y = (x - mean[None, :]) * scale[None, :] + bias[None, :]
    if SILU:
        # Not rounded to nearest, as only here: a correctly rounded quotient would take a third more instructions.
        y = y / (1.0 + tl.exp(-y))
    return y


@triton.jit(do_not_specialize=["pixels", "width"])
def whole_group_kernel(
    x_ptr,
    skip_ptr,
    offset_ptr,
    out_ptr,
    weight_ptr,
    bias_ptr,
    own,
    channels,
    pixels,
    groups,
    width,
    eps,
    SKIP: tl.constexpr,
    OFFSET: tl.constexpr,
    SILU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """One program: one group of one row; PIXELS pixels at a time, CHANNELS at least its width."""
    program = tl.program_id(0)
    row, group = (program // groups).to(tl.int64), program % groups
    lane = tl.arange(0, CHANNELS)
    c = group * width + lane
    used = lane < width
    lanes: tl.constexpr = PIXELS * CHANNELS
    numbers = (pixels * width).to(tl.float32)
    # The group's first number: sums relative to it are as small as the spread.
    start = tl.arange(0, PIXELS)
    corner = (start == 0)[:, None] & (lane == 0)[None, :]
    x = _channels_of(x_ptr, skip_ptr, offset_ptr, row, start, c, pixels, own, channels, corner, SKIP, OFFSET)
    origin = tl.sum(tl.sum(tl.where(corner, x, 0.0), axis=1), axis=0)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for first in range(0, pixels, PIXELS):
        pixel = first + start
        mask = (pixel < pixels)[:, None] & used[None, :]
        x = _channels_of(
            x_ptr, skip_ptr, offset_ptr, row, pixel, c, pixels, own, channels, mask, SKIP, OFFSET
        )
        total += tl.where(mask, x - origin, 0.0)
    shift = tl.div_rn(pairwise_sum(tl.reshape(total, (1, lanes)), 1, lanes, LEVELS), numbers)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for first in range(0, pixels, PIXELS):
        pixel = first + start
        mask = (pixel < pixels)[:, None] & used[None, :]
        x = _channels_of(
            x_ptr, skip_ptr, offset_ptr, row, pixel, c, pixels, own, channels, mask, SKIP, OFFSET
        )
        deviation = x - origin - shift[:, None]
        total += tl.where(mask, deviation * deviation, 0.0)
    variance = tl.div_rn(pairwise_sum(tl.reshape(total, (1, lanes)), 1, lanes, LEVELS), numbers)
    scale = tl.div_rn(1.0, tl.sqrt_rn(variance + eps)) * tl.load(weight_ptr + c, mask=used, other=0.0).to(
        tl.float32
    )
    bias = tl.load(bias_ptr + c, mask=used, other=0.0).to(tl.float32)
    for first in range(0, pixels, PIXELS):
        pixel = first + start
        mask = (pixel < pixels)[:, None] & used[None, :]
        x = _channels_of(
            x_ptr, skip_ptr, offset_ptr, row, pixel, c, pixels, own, channels, mask, SKIP, OFFSET
        )
        y = _affine(x, origin + shift, scale, bias, SILU)
        place = row * pixels * channels + pixel[:, None] * channels + c[None, :]
        tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    skip: Tensor | None = None,
    offset: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = True,
    out: Tensor | None = None,
    tunings: tuple[Setting, Setting] | None = None,
) -> Tensor:
    """Normalise groups of channels, scale and shift, and apply SiLU, on a GPU.

    In torch: F.silu(F.group_norm(torch.cat([x, skip], 1) + offset[:, None, None], groups, weight, bias, eps)), rounded
    once. A row's bits depend on no other row.

    Args:
        x: [M, C, H, W] float32, float16 or bfloat16, packed in channels_last order; at most 2^30 values per row.
        weight, bias: [C] of the same dtype; with `skip`, C is the number of both tensors' channels.
        groups: divides C.
        skip: None, or [M, C', H, W] as x: more channels, after x's.
        offset: None, or [C] of the same dtype: is added to the channels first.
        eps: is added to variances.
        silu: False leaves SiLU out.
        out: tensor to write to, or None for a new one; without `skip` it may be x.
        tunings: numbers of a program of step 1, of one pixel block of step 3; None: from the table of this GPU.
            Changes no bit.

    Returns:
        [M, C, H, W], channels_last, of x's dtype. In float32 within 2e-7 of the largest |y| for means up to a standard
        deviation, 2e-6 at 100 (against float64, up to 38,400 numbers per group, in the interpreter).

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type, memory order or device.
    """
    m, channels, pixels = _check(x, skip, weight, bias, offset, groups)
    out = checks.new_or_given(out, x.dtype, (m, channels, *x.shape[2:]), "nhwc", x.device)
    if not m:
        return out
    given = {
        "x_ptr": x,
        # Never read where they are not there.
        "skip_ptr": x if skip is None else skip,
        "offset_ptr": x if offset is None else offset,
        "own": x.shape[1],
        "channels": channels,
        "pixels": pixels,
        "SKIP": skip is not None,
        "OFFSET": offset is not None,
    }
    shape = {"groups": groups, "width": channels // groups}
    affine = {"weight_ptr": weight, "bias_ptr": bias}
    if pixels <= _SMALL_PIXELS and shape["width"] <= _SMALL_WIDTH:
        _whole_groups(m, {**given, **shape, **affine, "out_ptr": out, "eps": eps, "SILU": silu}).run()
        return out
    adding, writing = tunings or tuple(
        setting(f"group_norm_silu.{step}", x.device) for step in ("moments", "normalise")
    )
    moments = _moments(m, given, shape, eps, adding)
    tile = _channel_tile(channels, writing.block)
    rows = max(1, writing.block // tile)
    pixel_blocks, channel_blocks = blocks(pixels, rows * _STEPS), blocks(channels, tile)
    Launch(
        kernel=normalise_kernel,
        programs=m * pixel_blocks * channel_blocks,
        arguments={
            **given,
            **shape,
            **affine,
            "out_ptr": out,
            "moments_ptr": moments,
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


def _whole_groups(m: int, arguments: dict[str, Any]) -> Launch:
    """Return the launch of one program per group."""
    tile = triton.next_power_of_2(arguments["width"])
    rows = min(max(1, _SMALL_BLOCK // tile), triton.next_power_of_2(arguments["pixels"]))
    return Launch(
        kernel=whole_group_kernel,
        programs=m * arguments["groups"],
        arguments={**arguments, "PIXELS": rows, "CHANNELS": tile, "LEVELS": levels(rows * tile)},
        # As many threads as numbers allow: no choice changes a bit.
        num_warps=min(max(rows * tile // 128, 1), 8),
    )


def _moments(m: int, given: dict[str, Any], shape: dict[str, int], eps: float, tuning: Setting) -> Tensor:
    """Return [M, G, 2] float32: per group the mean and 1/√(variance + eps)."""
    x, channels, pixels = given["x_ptr"], given["channels"], given["pixels"]
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
            **given,
            **partial,
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
    return _group_moments(partial, {"channels": channels, "pixels": pixels, **shape}, m, eps)


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


def _check(
    x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, offset: Tensor | None, groups: int
) -> tuple[int, int, int]:
    """Raise TypeError or ValueError unless the arguments fit each other; return M, C and H·W."""
    checks.check_tensor(
        "x", x, tuple(checks.FLOATS.values()), (None, None, None, None), x.device, packed=False
    )
    m, channels, height, width = x.shape
    if skip is not None:
        checks.check_tensor("skip", skip, x.dtype, (m, None, height, width), x.device, packed=False)
        channels += skip.shape[1]
    if not 0 < channels * height * width <= checks.MAX_ELEMENTS:
        raise ValueError(f"x: wanted 1 to 2^30 values per row, got {channels} × {height} × {width}")
    for name, image in (("x", x), ("skip", skip)):
        if image is not None and not image.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(
                f"{name}: wanted a packed tensor in channels_last order; pass "
                ".contiguous(memory_format=torch.channels_last)"
            )
    for name, tensor in (("weight", weight), ("bias", bias), ("offset", offset)):
        if tensor is not None:
            checks.check_tensor(name, tensor, x.dtype, (channels,), x.device)
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: wanted a divisor of the {channels} channels, got {groups}")
    return m, channels, height * width
