"""cosine_mean in Triton: adds the unit tokens of a micro-batch to running sums, and scores them against an anchor.

Everything is float64, in the order of the C++ kernel: 16 interleaved partial sums per token, then a tree of pairs;
rows in their order; tokens in theirs. No order depends on a block size, and results are the bits of the C++ kernel.

Three kernels, because a token's norm must be known before any of it is added:
1. `token_products`: per token the norm, its inverse, and the inner product with the anchor.
2. `token_sums`: per place (image, token) the rows' unit tokens are added in order; no other program writes there.
3. `scores`: per row the mean over tokens, less the slack.

Bytes: features and anchor read once from memory, the sums read and written once; step 2 reads the features again, from
the second-level cache where the micro-batch fits in. Operations of one number, in float64: 2 for the norm, 2 for the
inner product, 2 for the sum (2 more with raw sums), 2 conversions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Launch, blocks
from fsfast.kernels.cuda.settings import Setting, setting
from fsfast.kernels.tensors import RowTensors, SumTensors

# Chunks of 16 numbers whose loads are under way together.
_UNROLL = 4


@triton.jit
def tree_sum(lanes, TOKENS: tl.constexpr):
    """Sum of 16 partial sums, [TOKENS, 16] → [TOKENS]: every step adds two numbers, so there is no order to choose."""
    lanes = tl.sum(tl.reshape(lanes, (TOKENS, 2, 8)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (TOKENS, 2, 4)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (TOKENS, 2, 2)), axis=1)
    return tl.sum(lanes, axis=1)


@triton.jit(do_not_specialize=["items", "images"])
def token_products_kernel(
    features_ptr,
    row_image_ptr,
    anchor_ptr,
    norms_ptr,
    inverses_ptr,
    dots_ptr,
    items,
    images,
    tokens,
    DIM: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK of the M·L tokens. Without a direction norm and inverse are 0; dots of padding are NaN."""
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.load(row_image_ptr + item // tokens, mask=item < items, other=-1)
    used = (image >= 0) & (image < images)
    token_ptr = features_ptr + item.to(tl.int64) * DIM
    place = image.to(tl.int64) * tokens + item % tokens
    square = tl.zeros([BLOCK, 16], tl.float64)
    dot = tl.zeros([BLOCK, 16], tl.float64)
    for first in range(0, DIM, 16 * UNROLL):
        for chunk in tl.static_range(UNROLL):
            d = first + chunk * 16 + tl.arange(0, 16)
            mask = used[:, None] & (d < DIM)[None, :]
            value = (
                tl.load(token_ptr[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32).to(tl.float64)
            )
            square += value * value
            if anchor_ptr is not None:
                direction_ptr = anchor_ptr + place[:, None] * DIM + d[None, :]
                dot += value * tl.load(direction_ptr, mask=mask, other=0.0)
    squares = tree_sum(square, BLOCK)
    # The square of a float32 neither overflows nor vanishes in float64.
    usable = (squares > 0.0) & (squares < float("inf"))
    norm = tl.where(usable, tl.sqrt(squares), 1.0)
    tl.store(norms_ptr + item, tl.where(usable, norm, 0.0), mask=item < items)
    tl.store(inverses_ptr + item, tl.where(usable, 1.0 / norm, 0.0), mask=item < items)
    if anchor_ptr is not None:
        cosine = tl.where(usable, tree_sum(dot, BLOCK) / norm, 0.0)
        tl.store(dots_ptr + item, tl.where(used, cosine, float("nan")), mask=item < items)


@triton.jit
def token_sums_kernel(
    features_ptr,
    row_image_ptr,
    norms_ptr,
    inverses_ptr,
    unit_ptr,
    norm_ptr,
    count_ptr,
    raw_ptr,
    tokens,
    dim_blocks,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK numbers of the sums of one place; the rows of its image are added in order."""
    program = tl.program_id(0)
    block, place = program % dim_blocks, program // dim_blocks
    image, token = place // tokens, place % tokens
    d = block * BLOCK + tl.arange(0, BLOCK)
    sums = place.to(tl.int64) * DIM + d
    unit = tl.load(unit_ptr + sums, mask=d < DIM, other=0.0)
    if raw_ptr is not None:
        raw = tl.load(raw_ptr + sums, mask=d < DIM, other=0.0)
    norm = tl.load(norm_ptr + place)
    added = 0
    for row in range(ROWS):
        if tl.load(row_image_ptr + row) == image:
            added += 1
            item = row * tokens + token
            inverse = tl.load(inverses_ptr + item)
            # A token without a direction may hold NaNs: it is not even multiplied.
            if inverse > 0.0:
                norm += tl.load(norms_ptr + item)
                number_ptr = features_ptr + item.to(tl.int64) * DIM + d
                number = tl.load(number_ptr, mask=d < DIM, other=0.0).to(tl.float32).to(tl.float64)
                unit += number * inverse
                if raw_ptr is not None:
                    raw += number
    tl.store(unit_ptr + sums, unit, mask=d < DIM)
    if raw_ptr is not None:
        tl.store(raw_ptr + sums, raw, mask=d < DIM)
    if block == 0:
        tl.store(norm_ptr + place, norm)
        if token == 0:
            tl.store(count_ptr + image, tl.load(count_ptr + image) + added)


@triton.jit
def lower_score(mean, TERMS: tl.constexpr):
    """(1 + mean)/2 less the slack of TERMS products, at least 0; NaN stays NaN."""
    score = (1.0 + mean) * 0.5 - (TERMS + 8) * 2.220446049250313e-16
    return tl.where(score < 0.0, 0.0, score)


@triton.jit
def scores_kernel(
    dots_ptr,
    scores_ptr,
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: the score of one row, or of its tokens."""
    row = tl.program_id(0)
    if PER_TOKEN:
        for first in range(0, TOKENS, BLOCK):
            j = first + tl.arange(0, BLOCK)
            dot = tl.load(dots_ptr + row * TOKENS + j, mask=j < TOKENS)
            tl.store(scores_ptr + row * TOKENS + j, lower_score(dot, DIM), mask=j < TOKENS)
    else:
        one = tl.arange(0, 1)
        total = tl.zeros([1], tl.float64)
        # Token after token, as in C++.
        for j in range(TOKENS):
            total += tl.load(dots_ptr + row * TOKENS + j + one)
        tl.store(scores_ptr + row + one, lower_score(total / TOKENS, TOKENS * DIM))


def cosine_mean(
    features: Tensor,
    rows: RowTensors,
    sums: SumTensors | None,
    *,
    anchor: Tensor | None = None,
    per_token: bool = False,
    tunings: tuple[Setting, Setting] | None = None,
) -> Tensor | None:
    """Add the unit tokens of a micro-batch to running sums, and score them against an anchor, on a GPU.

    A token that is zero or not finite is the zero vector: it adds nothing, and its inner product is 0.

    Args:
        features: [M, L, D] float32, float16 or bfloat16, contiguous.
        rows: M rows; only their images are read, and padding is left out.
        sums: is added to, in row order; None if only scores are wanted.
        anchor: [B, L, D] float64, unit tokens or zero vectors; None for no scores.
        per_token: score every token on its own.
        tunings: tokens of a program of step 1, numbers of a program of step 2; None: from the table of this GPU.
            Changes no bit.

    Returns:
        None without an anchor. Otherwise [M] float64, or [M, L] with `per_token`; the bits of
        `fsfast.kernels.cpu.cosine_mean`, and so never above the exact score. Scores of padding rows are NaN.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type or device.
    """
    images = _check(features, rows, sums, anchor)
    m, tokens, dim = features.shape
    products, adding = tunings or tuple(
        setting(f"cosine_mean.{step}", features.device) for step in ("products", "sums")
    )
    norms, inverses, dots = features.new_empty((3, m, tokens), dtype=torch.float64)
    shared = {
        "features_ptr": features,
        "row_image_ptr": rows.image,
        "norms_ptr": norms,
        "inverses_ptr": inverses,
    }
    shared |= {"tokens": tokens, "DIM": dim}
    Launch(
        kernel=token_products_kernel,
        programs=blocks(m * tokens, products.block),
        arguments={
            **shared,
            "anchor_ptr": anchor,
            "dots_ptr": dots,
            "items": m * tokens,
            "images": images,
            "UNROLL": _UNROLL,
            "BLOCK": products.block,
        },
        num_warps=products.num_warps,
    ).run()
    if sums is not None:
        _add(shared, m, images, sums, adding)
    return None if anchor is None else _scores(dots, dim, per_token)


def _add(shared: dict[str, object], m: int, images: int, sums: SumTensors, tuning: Setting) -> None:
    _, tokens, dim = sums.unit.shape
    dim_blocks = blocks(dim, tuning.block)
    Launch(
        kernel=token_sums_kernel,
        programs=images * tokens * dim_blocks if m else 0,
        arguments={
            **shared,
            "unit_ptr": sums.unit,
            "norm_ptr": sums.norm,
            "count_ptr": sums.count,
            "raw_ptr": sums.raw,
            "ROWS": m,
            "dim_blocks": dim_blocks,
            "BLOCK": tuning.block,
        },
        num_warps=tuning.num_warps,
    ).run()


def _scores(dots: Tensor, dim: int, per_token: bool) -> Tensor:
    m, tokens = dots.shape
    scores = torch.empty_like(dots) if per_token else dots.new_empty(m)
    Launch(
        kernel=scores_kernel,
        programs=m,
        arguments={
            "dots_ptr": dots,
            "scores_ptr": scores,
            "TOKENS": tokens,
            "DIM": dim,
            "PER_TOKEN": per_token,
            "BLOCK": 128,
        },
        num_warps=1,
    ).run()
    return scores


def _check(features: Tensor, rows: RowTensors, sums: SumTensors | None, anchor: Tensor | None) -> int:
    """Raise TypeError or ValueError unless the arguments fit each other; return B."""
    device = features.device
    floats = tuple(checks.FLOATS.values())
    checks.check_tensor("features", features, floats, (len(rows.image), None, None), device)
    # Seeds and samples are not read.
    checks.check_tensor("rows.image", rows.image, torch.int32, (len(features),), device)
    _, tokens, dim = features.shape
    if tokens == 0 or dim == 0:
        raise ValueError(f"features: wanted at least one token and one dimension, got {list(features.shape)}")
    if sums is None and anchor is None:
        raise ValueError("wanted sums to add to or an anchor for scores, got neither")
    images = None
    if anchor is not None:
        checks.check_tensor("anchor", anchor, torch.float64, (None, tokens, dim), device)
        images = len(anchor)
    if sums is not None:
        images = checks.check_sums(sums, images, tokens, dim, device)
    assert images is not None
    return images
