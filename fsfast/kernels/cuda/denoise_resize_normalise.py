"""denoise_resize_normalise in Triton: from a noisy image and its noise estimate to the encoder's pixels, in one pass.

The order of operations and every rounding are those of the C++ kernel, so results are its bits, but for the
payload of a NaN.

Bytes of one call: x_t and three channels of eps_hat read once from memory, the output written once; rows that several
output rows share are read again from the caches.
Operations of one output value with r and c taps per axis, when a tile turns s input columns into one output column
(256→224: r = c = 5, s = 64/52): r·s times 9 (7 for a denoised pixel, 2 for its weight), then c times 2 for the columns'
weights and c times 2 exchanges between lanes: 75.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fsfast.kernels.cuda import checks
from fsfast.kernels.cuda.launch import Geometry, Launch, blocks
from fsfast.kernels.cuda.settings import Setting, setting
from fsfast.kernels.tensors import ResizeTensors
from fsfast.kernels.types import Dtype, Layout


@triton.jit
def denoised_pixel(x, e, a, b):
    """(clamp(a x − b e, −1, 1) + 1) / 2; a NaN stays a NaN, because both comparisons are then false."""
    clean = a * x - b * e
    raised = tl.where(clean < -1.0, -1.0, clean)
    return (tl.where(raised > 1.0, 1.0, raised) + 1.0) * 0.5


@triton.jit
def resized_rows(
    x_ptr, eps_ptr, start_ptr, weights_ptr, a, b, i, out_height, height, x, width,
    stride_xy, stride_xx, stride_ey, stride_ex, TAPS: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Denoised pixels of the input columns `x`, resized to the output rows `i`: [ROWS, SPAN] float32."""
    start = tl.load(start_ptr + i, mask=i < out_height, other=0)
    resized = tl.zeros([ROWS, SPAN], tl.float32)
    for t in tl.range(0, TAPS):
        y = start + t
        inside = (i < out_height) & (y < height)
        mask = inside[:, None] & (x < width)[None, :]
        weight = tl.load(weights_ptr + i * TAPS + t, mask=inside, other=0.0)
        noisy_ptr = x_ptr + y[:, None] * stride_xy + x[None, :] * stride_xx
        noisy = tl.load(noisy_ptr, mask=mask, other=0.0).to(tl.float32)
        estimate = 0.0
        if eps_ptr is not None:
            estimate_ptr = eps_ptr + y[:, None] * stride_ey + x[None, :] * stride_ex
            estimate = tl.load(estimate_ptr, mask=mask, other=0.0).to(tl.float32)
        resized += weight[:, None] * denoised_pixel(noisy, estimate, a, b)
    return resized


@triton.jit
def resized_columns(
    pixels, first, start_ptr, weights_ptr, j, used, width,
    TAPS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """`pixels`, whose columns begin at input column `first`, resized to the output columns `j`."""
    start = tl.load(start_ptr + j, mask=used, other=0)
    resized = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for t in tl.range(0, TAPS):
        inside = used & (start + t < width)
        weight = tl.load(weights_ptr + j * TAPS + t, mask=inside, other=0.0)
        index = tl.where(inside, start + t - first, 0)
        pixel = tl.gather(pixels, tl.broadcast_to(index[None, :], (ROWS, OUTPUTS)), axis=1)
        # Taps beyond the end are not read: a NaN in column 0 must not come in through them.
        resized += weight[None, :] * tl.where(inside[None, :], pixel, 0.0)
    return resized


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """float32 as `dtype`, to nearest even. For bfloat16 in integers: the interpreter's own cast cuts off."""
    if dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Rounding could turn a NaN into an infinity.
        half = tl.where(value == value, even, (bits >> 16) | 0x40)
        return half.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(dtype)


@triton.jit
def denoise_resize_normalise_kernel(
    out_ptr,
    x_ptr,
    eps_ptr,
    row_start_ptr,
    row_weights_ptr,
    column_start_ptr,
    column_weights_ptr,
    mean_ptr,
    std_ptr,
    a,
    b,
    height,
    width,
    out_height,
    out_width,
    stride_xm,
    stride_xc,
    stride_xy,
    stride_xx,
    stride_em,
    stride_ec,
    stride_ey,
    stride_ex,
    stride_oc,
    stride_op,
    bands,
    tiles,
    outputs,
    ROW_TAPS: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """One program: ROWS output rows and `outputs` output columns of one channel of one image."""
    program = tl.program_id(0)
    tile, band, plane = program % tiles, program // tiles % bands, program // tiles // bands
    channel, m = plane % 3, (plane // 3).to(tl.int64)
    i = band * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, OUTPUTS)
    j = tile * outputs + column
    used = (column < outputs) & (j < out_width)
    first = tl.min(tl.load(column_start_ptr + j, mask=used, other=width), axis=0)
    x_ptr += m * stride_xm + channel * stride_xc
    if eps_ptr is not None:
        eps_ptr += m * stride_em + channel * stride_ec
    rows = resized_rows(
        x_ptr, eps_ptr, row_start_ptr, row_weights_ptr, a, b, i, out_height, height, first + tl.arange(0, SPAN),
        width, stride_xy, stride_xx, stride_ey, stride_ex, ROW_TAPS, ROWS, SPAN,
    )  # fmt: skip
    pixel = resized_columns(
        rows, first, column_start_ptr, column_weights_ptr, j, used, width, COLUMN_TAPS, ROWS, OUTPUTS
    )
    mean = tl.load(mean_ptr + channel).to(tl.float32)
    inverse_std = (1.0 / tl.load(std_ptr + channel)).to(tl.float32)
    value = (pixel - mean) * inverse_std
    place = (i[:, None] * out_width + j[None, :]) * stride_op
    to = out_ptr + m * (3 * out_height * out_width) + channel * stride_oc + place
    tl.store(to, rounded(value, out_ptr.dtype.element_ty), mask=(i < out_height)[:, None] & used[None, :])


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
    out: Tensor | None = None,
    tuning: Setting | None = None,
) -> Tensor:
    """Turn noisy images and their noise estimates into the encoder's input, on a GPU.

    Args:
        x_t: [M, 3, H, W] float32, float16 or bfloat16, any strides.
        eps_hat: [M, C ≥ 3, H, W] likewise, of which the first three channels count; None subtracts nothing.
        denoise: (a, b).
        resize: tables from (H, W) to (h, w).
        mean, std: [3] float64, of pixels in [0, 1]. Their values are not checked: they are on the device.
        dtype: type of the output, rounded to nearest even.
        layout: memory order of the output: torch's contiguous or channels_last.
        out: tensor to write to, or None for a new one.
        tuning: output rows of a program; None: from the table of this GPU. Changes no bit.

    Returns:
        [M, 3, h, w], the bits of `fsfast.kernels.cpu.denoise_resize_normalise` but for the payload of a NaN.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range, type or device.
    """
    device = x_t.device
    m = _check(x_t, eps_hat, denoise, resize, mean, std)
    checks.check_layout(layout)
    if dtype not in checks.FLOATS:
        raise ValueError(f"dtype: wanted one of {', '.join(checks.FLOATS)}, got {dtype!r}")
    height, width = len(resize.row_start), len(resize.column_start)
    out = checks.new_or_given(out, checks.FLOATS[dtype], (m, 3, height, width), layout, device)
    tuning = tuning or setting("denoise_resize_normalise", device)
    geometry = _geometry(x_t, eps_hat, resize, layout, tuning)
    Launch(
        kernel=denoise_resize_normalise_kernel,
        programs=geometry.programs,
        arguments={
            "out_ptr": out,
            "x_ptr": x_t,
            "eps_ptr": eps_hat,
            "row_start_ptr": resize.row_start,
            "row_weights_ptr": resize.row_weights,
            "column_start_ptr": resize.column_start,
            "column_weights_ptr": resize.column_weights,
            "mean_ptr": mean,
            "std_ptr": std,
            "a": float(denoise[0]),
            "b": float(denoise[1]),
            **geometry.numbers,
        },
        num_warps=tuning.num_warps,
    ).run()
    return out


def _geometry(
    x_t: Tensor, eps_hat: Tensor | None, resize: ResizeTensors, layout: Layout, tuning: Setting
) -> Geometry:
    """Divide every channel of the output into bands of rows and tiles of columns."""
    height, width = len(resize.row_start), len(resize.column_start)
    bands, tiles = blocks(height, tuning.block), blocks(width, resize.outputs)
    strides = dict(zip(("stride_xm", "stride_xc", "stride_xy", "stride_xx"), x_t.stride(), strict=True))
    given = (0, 0, 0, 0) if eps_hat is None else eps_hat.stride()
    strides |= zip(("stride_em", "stride_ec", "stride_ey", "stride_ex"), given, strict=True)
    numbers = {
        "height": resize.height,
        "width": resize.width,
        "out_height": height,
        "out_width": width,
        **strides,
        "stride_oc": 1 if layout == "nhwc" else height * width,
        "stride_op": 3 if layout == "nhwc" else 1,
        "bands": bands,
        "tiles": tiles,
        "outputs": resize.outputs,
        "ROW_TAPS": resize.row_weights.shape[1],
        "COLUMN_TAPS": resize.column_weights.shape[1],
        "ROWS": tuning.block,
        "SPAN": resize.span,
        "OUTPUTS": triton.next_power_of_2(resize.outputs),
    }
    return Geometry(len(x_t) * 3 * bands * tiles, numbers)


def _check(
    x_t: Tensor,
    eps_hat: Tensor | None,
    denoise: tuple[float, float],
    resize: ResizeTensors,
    mean: Tensor,
    std: Tensor,
) -> int:
    """Raise TypeError or ValueError unless the inputs fit each other; return M."""
    device, floats = x_t.device, tuple(checks.FLOATS.values())
    checks.check_tensor("x_t", x_t, floats, (None, 3, resize.height, resize.width), device, packed=False)
    m = len(x_t)
    if eps_hat is not None:
        shape = (m, None, resize.height, resize.width)
        checks.check_tensor("eps_hat", eps_hat, floats, shape, device, packed=False)
        if eps_hat.shape[1] < 3:
            raise ValueError(f"eps_hat: wanted at least 3 channels, got {eps_hat.shape[1]}")
    for name in ("row", "column"):
        start, weights = getattr(resize, f"{name}_start"), getattr(resize, f"{name}_weights")
        checks.check_tensor(f"resize.{name}_start", start, torch.int32, (None,), device)
        checks.check_tensor(f"resize.{name}_weights", weights, torch.float32, (len(start), None), device)
    checks.check_tensor("mean", mean, torch.float64, (3,), device)
    checks.check_tensor("std", std, torch.float64, (3,), device)
    if not all(abs(c) < float("inf") for c in denoise):
        raise ValueError(f"denoise: wanted two finite coefficients, got {denoise}")
    return m
