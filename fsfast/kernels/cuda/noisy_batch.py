"""noisy_batch in Triton: exact integer Gaussian noise on uint8 images, and the float value of every noisy pixel.

Only integers are computed; floats are copied from a table as bit patterns. So the bits are those of the C++ kernel and
of the reference on every GPU, for any block size.

Bytes of one sample (a noisy value): 1 read from the image, 4 or 2 written; tables and rows stay in the caches.
Operations of one sample: a quarter of a Philox block (20 multiplications 32×32→64 and 20 pairs of exclusive ors), about
20 integer operations for bucket, count and addresses, 2 look-ups in tables. About one sample in 2^32/2K lies next to a
threshold and needs its low word: then the program draws a second Philox block and bisects.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.settings import Setting, setting
from fsfast.kernels.tensors import NoiseTensors, RowTensors
from fsfast.kernels.types import Layout

# Bit patterns of the output types.
_WORDS = {2: torch.int16, 4: torch.int32}


@triton.jit
def philox(c0, c1, c2, c3, key0, key1):
    """Philox4x32-10 of 128-bit counters under a 64-bit key; every argument is uint32."""
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * 0xD2511F53
        product1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ key0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ key1
        c3 = product0.to(tl.uint32)
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def uniform_words(seed, sample, stream, half: tl.constexpr, first, BLOCK: tl.constexpr):
    """Words of elements 4·first, 4·first + 1, …: [BLOCK] uint32. half 0: high words of U, half 1: low words."""
    counter = (first + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = counter * 0
    key = seed.to(tl.uint64, bitcast=True)
    w0, w1, w2, w3 = philox(
        counter,
        zero + sample.to(tl.uint32, bitcast=True),
        zero + stream.to(tl.uint32, bitcast=True),
        zero + half,
        zero + key.to(tl.uint32),
        zero + (key >> 32).to(tl.uint32),
    )
    # A thread keeps the four words of its blocks: it stores 16 bytes at once.
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def count_by_guide(guide_ptr, high, last_inexact, FRACTION_BITS: tl.constexpr):
    """Return #{j: U ≥ T_j} by one look-up, and a uint32 that is 0 where it may be wrong (see fsfast.kernels.tables)."""
    signed = high.to(tl.int32, bitcast=True)
    # 0 in the lower half of [0, 2^32), −1 in the upper; then the distance from the nearer end.
    upper = signed >> 31
    distance = (signed ^ upper) & 0x7FFFFFFF
    bits = (distance | 1).to(tl.float32).to(tl.int32, bitcast=True)
    bucket = ((bits - 0x3F800000) >> (23 - FRACTION_BITS)) | ((upper & 1) << (FRACTION_BITS + 5))
    sum_ = tl.load(guide_ptr + bucket).to(tl.uint64, bitcast=True) + high.to(tl.uint64)
    # A lower half of all ones: a threshold has the same high word. Minima cost fewer instructions than logic.
    unequal = sum_.to(tl.uint32) ^ 0xFFFFFFFF
    exact = tl.maximum(distance - last_inexact, 0).to(tl.uint32)
    return (sum_ >> 32).to(tl.int32), tl.minimum(unequal, exact)


@triton.jit
def count_by_bisection(thresholds_ptr, count, uniform, wanted, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Return #{j: U ≥ T_j} of the wanted elements by bisection over the `count` thresholds."""
    low = tl.zeros([BLOCK], tl.int32)
    high = low + count
    for _ in range(STEPS):
        middle = (low + high) >> 1
        search = wanted & (low < high)
        threshold = tl.load(thresholds_ptr + middle, mask=search, other=0).to(tl.uint64, bitcast=True)
        reached = uniform >= threshold
        low = tl.where(search & reached, middle + 1, low)
        high = tl.where(search & ~reached, middle, high)
    return low


@triton.jit(do_not_specialize=["stream", "images", "last_inexact", "count"])
def noisy_batch_kernel(
    out_ptr,
    images_ptr,
    row_image_ptr,
    row_seed_ptr,
    row_sample_ptr,
    thresholds_ptr,
    guide_ptr,
    values_ptr,
    stream,
    images,
    width,
    pixels,
    stride_ib,
    stride_iy,
    stride_ic,
    stride_oc,
    last_inexact,
    count,
    channel_blocks,
    FRACTION_BITS: tl.constexpr,
    STEPS: tl.constexpr,
    STRIDE_IX: tl.constexpr,
    STRIDE_OP: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK elements of one channel of one row; `pixels` = H·W."""
    program = tl.program_id(0)
    block, plane = program % channel_blocks, program // channel_blocks
    channel, row = plane % 3, plane // 3
    # Elements are numbered in C, H, W order, four to a Philox block: a channel may begin inside of one.
    first = channel * pixels // 4 + block * (BLOCK // 4)
    pixel = first * 4 - channel * pixels + tl.arange(0, BLOCK)
    inside = (pixel >= 0) & (pixel < pixels)
    to = out_ptr + row.to(tl.int64) * (3 * pixels) + channel * stride_oc + pixel * STRIDE_OP
    image = tl.load(row_image_ptr + row)
    if (image < 0) | (image >= images):
        tl.store(to, tl.zeros([BLOCK], out_ptr.dtype.element_ty), mask=inside)
    else:
        place = pixel * STRIDE_IX
        if not PACKED:
            place = pixel // width * stride_iy + pixel % width * STRIDE_IX
        plane_ptr = images_ptr + image.to(tl.int64) * stride_ib + channel * stride_ic
        x = tl.load(plane_ptr + place, mask=inside, other=0).to(tl.int32)
        seed = tl.load(row_seed_ptr + row)
        sample = tl.load(row_sample_ptr + row)
        high = uniform_words(seed, sample, stream, 0, first, BLOCK)
        below, certainty = count_by_guide(guide_ptr, high, last_inexact, FRACTION_BITS)
        if tl.min(certainty, axis=0) == 0:
            search = inside & (certainty == 0)
            low = uniform_words(seed, sample, stream, 1, first, BLOCK)
            uniform = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
            exact = count_by_bisection(thresholds_ptr, count, uniform, search, STEPS, BLOCK)
            below = tl.where(search, exact, below)
        # values[channel, v + K] with v = x + N and N = below − K.
        value = tl.load(values_ptr + channel * (256 + count) + x + below)
        tl.store(to, value, mask=inside)


def noisy_batch(
    images: Tensor,
    rows: RowTensors,
    stream: int,
    noise: NoiseTensors,
    *,
    layout: Layout = "nchw",
    out: Tensor | None = None,
    tuning: Setting | None = None,
) -> Tensor:
    """Add exact integer Gaussian noise to images on a GPU; the bits of `fsfast.kernels.cpu.noisy_batch`.

    Args:
        images: [B, H, W, 3] uint8, any strides; at most 2^30 values per image.
        rows: M rows; image −1 marks padding, which becomes zeros.
        stream: 0 … 2^32 − 1.
        noise: tables; the dtype of their values is the output's.
        layout: memory order of the output: torch's contiguous or channels_last.
        out: tensor to write to, or None for a new one.
        tuning: elements of a program; None: from the table of this GPU. Changes no bit.

    Returns:
        [M, 3, H, W] in the memory order asked for.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type or device.
    """
    device = images.device
    checks.check_layout(layout)
    checks.check_tensor("images", images, torch.uint8, (None, None, None, 3), device, packed=False)
    checks.check_rows(rows, device)
    fraction_bits = checks.check_noise(noise, device)
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream: wanted 0 to 2^32 − 1, got {stream}")
    batch, height, width, _ = images.shape
    pixels, count, m = height * width, len(noise.thresholds), len(rows.image)
    if 3 * pixels > checks.MAX_ELEMENTS:
        raise ValueError(f"images: wanted at most 2^30 values per image, got {height} × {width} × 3")
    out = checks.new_or_given(out, noise.values.dtype, (m, 3, height, width), layout, device)
    tuning = tuning or setting("noisy_batch", device)
    words = _WORDS[out.element_size()]
    # Three more: where the channel begins inside of a Philox block.
    channel_blocks = blocks(pixels + 3, tuning.block) if pixels else 0
    Launch(
        kernel=noisy_batch_kernel,
        programs=m * 3 * channel_blocks,
        arguments={
            "out_ptr": out.view(words),
            "images_ptr": images,
            "row_image_ptr": rows.image,
            "row_seed_ptr": rows.seed,
            "row_sample_ptr": rows.sample,
            "thresholds_ptr": noise.thresholds,
            "guide_ptr": noise.guide,
            "values_ptr": noise.values.view(words),
            # The signed number of the same bits.
            "stream": stream - (stream >> 31 << 32),
            "images": batch,
            "width": width,
            "pixels": pixels,
            "stride_ib": images.stride(0),
            "stride_iy": images.stride(1),
            "stride_ic": images.stride(3),
            "stride_oc": 1 if layout == "nhwc" else pixels,
            "last_inexact": noise.tail - 1,
            "count": count,
            "channel_blocks": channel_blocks,
            "FRACTION_BITS": fraction_bits,
            "STEPS": count.bit_length(),
            "STRIDE_IX": images.stride(2),
            "STRIDE_OP": 3 if layout == "nhwc" else 1,
            "PACKED": images.stride(1) == width * images.stride(2),
            "BLOCK": tuning.block,
        },
        num_warps=tuning.num_warps,
    ).run()
    return out
