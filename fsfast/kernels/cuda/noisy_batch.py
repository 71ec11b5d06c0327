"""noisy_batch in Triton: exact integer Gaussian noise on uint8 images, and the float value of every noisy pixel.

Only integers are computed; floats are copied from a table as bit patterns. So the bits are those of the C++ kernel and
of the reference on every GPU, for any block size.

Bytes of one sample (a noisy value): 1 read from the image, 4 or 2 written; tables and rows stay in the caches.
Operations of one sample: a quarter of a Philox block (20 multiplications 32×32→64 and 20 pairs of exclusive ors), a
conversion, a shift and an addition for the count, a test, an addition for the level, two addresses, 2 look-ups in
tables. About one sample in 2^18 shares the leading bits of its high word with a threshold (σ = 0.25) and needs its low
word: then the program draws that element's second Philox block and bisects.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Geometry, Launch, blocks
from fsfast.kernels.cuda.settings import Setting, setting
from fsfast.kernels.float_guide import dropped_bits, field_bits, fraction_bits
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
        c0 = (product1 >> 32).to(tl.uint32) ^ (c1 ^ key0)
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ (c3 ^ key1)
        c3 = product0.to(tl.uint32)
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def uniform_words(seed, sample, stream, half: tl.constexpr, block, LANES_FIRST: tl.constexpr):
    """High (half 0) or low words of U, four for each Philox block: [R, T] → [R, T, 4] or [4, R, T] uint32."""
    counter = block.to(tl.uint32)
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
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [block.shape[0], block.shape[1], 4])
    if LANES_FIRST:
        words = tl.permute(words, 2, 0, 1)
    return words


@triton.jit
def numbers(R: tl.constexpr, THREADS: tl.constexpr, LANES_FIRST: tl.constexpr):
    """Return 0 … R − 1, 0 … THREADS − 1 and 0 … 3 along the dimensions of what `uniform_words` returns."""
    # Lanes last: a thread stores its four elements at once. Lanes first: threads exchange nothing where it cannot.
    if LANES_FIRST:
        repeat, thread = tl.arange(0, R)[None, :, None], tl.arange(0, THREADS)[None, None, :]
        lane = tl.arange(0, 4)[:, None, None]
    else:
        repeat, thread = tl.arange(0, R)[:, None, None], tl.arange(0, THREADS)[None, :, None]
        lane = tl.arange(0, 4)[None, None, :]
    return repeat, thread, lane


@triton.jit
def sums_by_guide(guide_ptr, high, FRACTION_BITS: tl.constexpr, DROPPED_BITS: tl.constexpr):
    """Return counts of thresholds above lower bits that are 0 where the low word decides (see `float_guide`)."""
    bits = high.to(tl.int32, bitcast=True).to(tl.float32).to(tl.uint32, bitcast=True)
    entry = tl.load(guide_ptr + (bits >> (23 - FRACTION_BITS))).to(tl.uint32, bitcast=True)
    return entry + (high >> DROPPED_BITS)


@triton.jit
def count_by_bisection(thresholds_ptr, count, uniform, STEPS: tl.constexpr):
    """Return #{j: U ≥ T_j} of one uint64 by bisection over the `count` thresholds."""
    low = count * 0
    high = count
    for _ in range(STEPS):
        # After the last step that is needed the interval is empty, and stays so.
        middle = (low + high) >> 1
        threshold = tl.load(thresholds_ptr + middle, mask=low < high, other=-1).to(tl.uint64, bitcast=True)
        reached = (low < high) & (uniform >= threshold)
        high = tl.where(reached, high, middle)
        low = tl.where(reached, middle + 1, low)
    return low


@triton.jit
def decide(
    sums,
    element,
    inside,
    seed,
    sample,
    stream,
    thresholds_ptr,
    count,
    STEPS: tl.constexpr,
    FIELD_BITS: tl.constexpr,
):
    """Return the sums with exact counts wherever the lower bits were 0, one element after the other."""
    # There is hardly ever more than one: scalars need fewer registers than tensors.
    NONE: tl.constexpr = 0x7FFFFFFF
    lower: tl.constexpr = (1 << FIELD_BITS) - 1
    lane = tl.arange(0, 4)[None, None, :]
    next_ = tl.min(tl.where(inside & ((sums & lower) == 0), element, NONE))
    while next_ < NONE:
        block = tl.full([1, 1], 0, tl.int32) + (next_ >> 2)
        words = lane == (next_ & 3)
        high = tl.max(tl.where(words, uniform_words(seed, sample, stream, 0, block, False), 0))
        low = tl.max(tl.where(words, uniform_words(seed, sample, stream, 1, block, False), 0))
        uniform = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
        below = count_by_bisection(thresholds_ptr, count, uniform, STEPS)
        sums = tl.where(element == next_, (below.to(tl.uint32) << FIELD_BITS) | 1, sums)
        next_ = tl.min(tl.where(inside & ((sums & lower) == 0), element, NONE))
    return sums


@triton.jit(do_not_specialize=["stream", "images", "width", "count", "channel_blocks"])
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
    count,
    channel_blocks,
    STEPS: tl.constexpr,
    GUIDED: tl.constexpr,
    FRACTION_BITS: tl.constexpr,
    FIELD_BITS: tl.constexpr,
    DROPPED_BITS: tl.constexpr,
    STRIDE_IX: tl.constexpr,
    STRIDE_OP: tl.constexpr,
    PACKED: tl.constexpr,
    WHOLE: tl.constexpr,
    THREADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK elements of one channel of one row; `pixels` = H·W.

    Elements stand in tensors of R × THREADS × 4: a thread has R Philox blocks, whose addresses differ by constants.
    """
    R: tl.constexpr = BLOCK // (4 * THREADS)
    program = tl.program_id(0).to(tl.uint32)
    plane = program // channel_blocks.to(tl.uint32)
    block = (program - plane * channel_blocks.to(tl.uint32)).to(tl.int32)
    row = (plane // 3).to(tl.int32)
    channel = (plane % 3).to(tl.int32)
    # Elements are numbered in C, H, W order, four to a Philox block: a channel may begin inside of one.
    if WHOLE:
        # The last program of a channel repeats what the last but one writes rather than stop in between.
        begin = tl.multiple_of(tl.minimum(block * BLOCK, pixels - BLOCK), 4)
        first = (channel * pixels + begin) // 4
    else:
        first = channel * pixels // 4 + block * (BLOCK // 4)
        begin = first * 4 - channel * pixels
    LANES_FIRST: tl.constexpr = STRIDE_OP != 1
    repeat, thread, lane = numbers(R, THREADS, LANES_FIRST)
    pixel = (begin + thread * 4) + repeat * (4 * THREADS) + lane
    inside = (pixel >= 0) & (pixel < pixels)
    if WHOLE:
        inside = pixel == pixel
    offset = row.to(tl.int64) * (3 * pixels) + channel * stride_oc + begin * STRIDE_OP
    if WHOLE and STRIDE_OP == 1:
        offset = tl.multiple_of(offset, 4)
    # What differs between threads first: the rest are constants.
    to = out_ptr + offset + thread * (4 * STRIDE_OP)
    to = to + (repeat * (4 * THREADS * STRIDE_OP) + lane * STRIDE_OP)
    image = tl.load(row_image_ptr + row)
    if (image < 0) | (image >= images):
        tl.store(to, (pixel * 0).to(out_ptr.dtype.element_ty), mask=inside)
    else:
        place = images_ptr + image.to(tl.int64) * stride_ib + channel * stride_ic
        if PACKED:
            place = place + begin.to(tl.int64) * STRIDE_IX + thread * (4 * STRIDE_IX)
            place = place + (repeat * (4 * THREADS * STRIDE_IX) + lane * STRIDE_IX)
        else:
            y = (pixel.to(tl.uint32) // width.to(tl.uint32)).to(tl.int32)
            place = place + (y * (stride_iy - width * STRIDE_IX) + pixel * STRIDE_IX)
        seed = tl.load(row_seed_ptr + row)
        sample = tl.load(row_sample_ptr + row)
        number = (first + tl.arange(0, THREADS))[None, :] + tl.arange(0, R)[:, None] * THREADS
        high = uniform_words(seed, sample, stream, 0, number, LANES_FIRST)
        # Without a guide every element is undecided.
        sums = high * 0
        if GUIDED:
            sums = sums_by_guide(guide_ptr, high, FRACTION_BITS, DROPPED_BITS)
        x = tl.load(place, mask=inside, other=0).to(tl.uint32)
        if tl.min(sums & ((1 << FIELD_BITS) - 1)) == 0:
            element = first * 4 + thread * 4 + repeat * (4 * THREADS) + lane
            sums = decide(
                sums, element, inside, seed, sample, stream, thresholds_ptr, count, STEPS, FIELD_BITS
            )
        # values[channel, v + K] with v = x + N and N = #{j: U ≥ T_j} − K.
        level = x + (sums >> FIELD_BITS)
        value = tl.load(values_ptr + channel * (256 + count) + level)
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
    checks.check_noise(noise, device)
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream: wanted 0 to 2^32 − 1, got {stream}")
    _, height, width, _ = images.shape
    if 3 * height * width > checks.MAX_ELEMENTS:
        raise ValueError(f"images: wanted at most 2^30 values per image, got {height} × {width} × 3")
    shape = (len(rows.image), 3, height, width)
    out = checks.new_or_given(out, noise.values.dtype, shape, layout, device)
    tuning = tuning or setting("noisy_batch", device)
    words = _WORDS[out.element_size()]
    geometry = _geometry(images, len(rows.image), noise, layout, tuning)
    Launch(
        kernel=noisy_batch_kernel,
        programs=geometry.programs,
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
            **geometry.numbers,
        },
        num_warps=tuning.num_warps,
    ).run()
    return out


def _geometry(images: Tensor, m: int, noise: NoiseTensors, layout: Layout, tuning: Setting) -> Geometry:
    """Divide every channel of m rows into blocks of elements."""
    batch, height, width, _ = images.shape
    pixels, count = height * width, len(noise.thresholds)
    packed = images.stride(1) == width * images.stride(2)
    # Masks, and the addresses of pixels that do not follow one another, take as many registers as elements.
    block = tuning.block if packed and pixels % 4 == 0 and pixels >= tuning.block else tuning.block // 4
    whole = pixels % 4 == 0 and pixels >= block
    # Three more: where the channel begins inside of a Philox block.
    channel_blocks = blocks(pixels if whole else pixels + 3, block) if pixels else 0
    fraction = fraction_bits(len(noise.guide)) if len(noise.guide) else 0
    field = field_bits(count)
    numbers = {
        "images": batch,
        "width": width,
        "pixels": pixels,
        "stride_ib": images.stride(0),
        "stride_iy": images.stride(1),
        "stride_ic": images.stride(3),
        "stride_oc": 1 if layout == "nhwc" else pixels,
        "count": count,
        "channel_blocks": channel_blocks,
        "STEPS": count.bit_length(),
        "GUIDED": len(noise.guide) > 0,
        "FRACTION_BITS": fraction,
        "FIELD_BITS": field,
        "DROPPED_BITS": dropped_bits(fraction, field),
        "STRIDE_IX": images.stride(2),
        "STRIDE_OP": 3 if layout == "nhwc" else 1,
        "PACKED": packed,
        "WHOLE": whole,
        "THREADS": min(32 * tuning.num_warps, block // 4),
        "BLOCK": block,
    }
    return Geometry(m * 3 * channel_blocks, numbers)
