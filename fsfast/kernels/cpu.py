"""The three kernels in C++: arguments are checked here, the work is done without the interpreter's lock.

Results are the same bits for any number of threads, any chunking and any neighbours in the batch.
"""

from __future__ import annotations

import os

import numpy as np

from fsfast.errors import BackendUnavailable
from fsfast.installation import extension_missing
from fsfast.kernels import checks
from fsfast.kernels.types import STORAGE, Dtype, FeatureSums, Layout, NoiseTables, ResizeTables, Rows

try:
    from fsfast.kernels import _cpu
except ImportError as error:
    raise extension_missing(error) from error

# The instruction sets that the kernels are compiled for and this processor runs, the fastest last.
INSTRUCTION_SETS: tuple[str, ...] = _cpu.INSTRUCTION_SETS


def _chosen() -> int:
    """Return the place of the instruction set in use: the fastest, or the one that FSFAST_INSTRUCTION_SET names."""
    named = os.environ.get("FSFAST_INSTRUCTION_SET")
    if not named:
        return len(INSTRUCTION_SETS) - 1
    if named not in INSTRUCTION_SETS:
        raise BackendUnavailable(
            f"FSFAST_INSTRUCTION_SET: wanted one that this processor and this build of fsfast have "
            f"({', '.join(INSTRUCTION_SETS)}), got {named!r}"
        )
    return INSTRUCTION_SETS.index(named)


_SET = _chosen()


def instruction_set() -> str:
    """Return the instruction set that the kernels use; bits are the same in all of them."""
    return INSTRUCTION_SETS[_SET]


def noisy_batch(
    images: np.ndarray,
    rows: Rows,
    stream: int,
    noise: NoiseTables,
    *,
    layout: Layout = "nchw",
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Add exact integer Gaussian noise to images: the float of v = x + N for every row and pixel.

    N = #{j: U ≥ T_j} − K with 64 uniform bits U from Philox4x32-10 (key: the row's seed; counter:
    element // 4, sample, stream, half; elements numbered in C, H, W order). A pure function of position.

    Args:
        images: [B, H, W, 3] uint8, any strides.
        rows: M rows; image −1 marks padding, which becomes zeros.
        stream: 0 … 2^32 − 1, see docs/certificates.md: serving, certification, pilot, calibration.
        noise: tables of `noise_tables`; their dtype is the output's.
        layout: memory order of the output. The noise is the same.
        out: contiguous array to write to, or None for a new one.
        threads: at least 1.

    Returns:
        [M, 3, H, W], or [M, H, W, 3] for "nhwc"; exact.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range or type.
    """
    checks.check_choices(layout, threads)
    checks.check_array("images", images, np.uint8, (None, None, None, 3))
    checks.check_rows(rows, len(images))
    checks.check_noise(noise)
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream: wanted 0 to 2^32 − 1, got {stream}")
    _, height, width, _ = images.shape
    if 3 * height * width > checks.MAX_ELEMENTS:
        raise ValueError(f"images: wanted at most 2^34 values per image, got {height} × {width} × 3")
    shape = (3, height, width) if layout == "nchw" else (height, width, 3)
    out = checks.new_or_given(out, noise.values.dtype, (len(rows), *shape))
    _cpu.noisy_batch(
        images=images,
        row_image=rows.image,
        row_seed=rows.seed,
        row_sample=rows.sample,
        stream=stream,
        thresholds=noise.thresholds,
        guide=noise.guide,
        values=noise.values,
        lines=noise.lines,
        layout=layout,
        out=out,
        threads=threads,
        instruction_set=_SET,
    )
    return out


def denoise_resize_normalise(
    x_t: np.ndarray,
    eps_hat: np.ndarray | None,
    denoise: tuple[float, float],
    resize: ResizeTables,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    dtype: Dtype = "float32",
    layout: Layout = "nchw",
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Turn noisy images and their noise estimates into the encoder's input.

    x0 = a·x_t − b·eps_hat; p = (clamp(x0, −1, 1) + 1)/2; separable resize; (p − mean)/std; cast.

    Args:
        x_t: [M, 3, H, W] float32, float16 or uint16 (bfloat16 bits), any strides.
        eps_hat: [M, C ≥ 3, H, W] likewise, of which the first three channels count; None subtracts nothing.
        denoise: (a, b).
        resize: tables from (H, W) to (h, w).
        mean, std: [3], of pixels in [0, 1].
        dtype: type of the output, rounded to nearest even.
        layout: memory order of the output.
        out: contiguous array to write to, or None for a new one.
        threads: at least 1.

    Returns:
        [M, 3, h, w], or [M, h, w, 3] for "nhwc". Computed in float32: within 4e-6 / std of the float64
        reference (measured over the cases of the tests). A NaN in `eps_hat` makes every output pixel NaN
        whose taps meet it.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range or type.
    """
    checks.check_choices(layout, threads, dtype)
    checks.check_floats("x_t", x_t, (None, 3, None, None))
    m, _, height, width = x_t.shape
    if eps_hat is not None:
        checks.check_floats("eps_hat", eps_hat, (m, None, height, width))
        if eps_hat.shape[1] < 3:
            raise ValueError(f"eps_hat: wanted at least 3 channels, got {eps_hat.shape[1]}")
    checks.check_axis("resize.rows", resize.rows, height)
    checks.check_axis("resize.columns", resize.columns, width)
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if mean.shape != (3,) or std.shape != (3,) or not (np.isfinite(mean).all() and (std > 0).all()):
        raise ValueError(f"wanted 3 finite means and positive stds, got {mean.tolist()} and {std.tolist()}")
    if not np.isfinite(denoise).all():
        raise ValueError(f"denoise: wanted two finite coefficients, got {denoise}")
    size = (len(resize.rows.start), len(resize.columns.start))
    shape = (m, 3, *size) if layout == "nchw" else (m, *size, 3)
    out = checks.new_or_given(out, STORAGE[dtype], shape)
    _cpu.denoise_resize_normalise(
        x_t=x_t,
        eps_hat=eps_hat,
        a=denoise[0],
        b=denoise[1],
        row_start=resize.rows.start,
        row_weights=resize.rows.weights,
        column_start=resize.columns.start,
        column_weights=resize.columns.weights,
        mean=mean.tolist(),
        std=std.tolist(),
        layout=layout,
        out=out,
        threads=threads,
        instruction_set=_SET,
    )
    return out


def cosine_mean(
    features: np.ndarray,
    rows: Rows,
    sums: FeatureSums | None,
    *,
    anchor: np.ndarray | None = None,
    per_token: bool = False,
    threads: int = 1,
) -> np.ndarray | None:
    """Add the unit tokens of a micro-batch to running sums, and score them against an anchor.

    A token that is zero or not finite is the zero vector: it adds nothing, and its inner product is 0.

    Args:
        features: [M, L, D] float32, float16 or uint16 (bfloat16 bits), contiguous.
        rows: M rows; padding is left out.
        sums: is added to, in row order; None if only scores are wanted.
        anchor: [B, L, D] float64, unit tokens or zero vectors; None for no scores.
        per_token: score every token on its own.
        threads: at least 1.

    Returns:
        None without an anchor. Otherwise [M] float64, (1 + mean over j of ⟨unit token j, anchor j⟩)/2 less
        (L·D + 8)·2⁻⁵², at least 0: never above the exact score. With `per_token` [M, L], less (D + 8)·2⁻⁵².
        Scores of padding rows are NaN. Sums lie within 1e-12 (relative) of exact ones.

    Raises:
        ValueError, TypeError: an argument has the wrong shape, range or type.
    """
    checks.check_choices("nchw", threads)
    checks.check_floats("features", features, (len(rows), None, None))
    checks.check_packed("features", features)
    m, tokens, dim = features.shape
    if tokens == 0 or dim == 0:
        raise ValueError(f"features: wanted at least one token and one dimension, got {list(features.shape)}")
    if sums is None and anchor is None:
        raise ValueError("wanted sums to add to or an anchor for scores, got neither")
    images = None
    if anchor is not None:
        checks.check_array("anchor", anchor, np.float64, (None, tokens, dim))
        checks.check_packed("anchor", anchor)
        images = len(anchor)
    if sums is not None:
        images = checks.check_sums(sums, images, tokens, dim)
    assert images is not None
    checks.check_rows(rows, images)
    dots = None if anchor is None else np.empty((m, tokens))
    unit, norm, raw = (None, None, None) if sums is None else (sums.unit, sums.norm, sums.raw)
    _cpu.cosine_mean(
        features=features,
        row_image=rows.image,
        images=images,
        anchor=anchor,
        unit=unit,
        norm=norm,
        raw=raw,
        dots=dots,
        threads=threads,
        instruction_set=_SET,
    )
    if sums is not None:
        np.add.at(sums.count, rows.image[rows.image >= 0], 1)
    return None if dots is None else _scores(dots, rows.image < 0, dim, per_token)


def _scores(dots: np.ndarray, padding: np.ndarray, dim: int, per_token: bool) -> np.ndarray:
    tokens = dots.shape[1]
    dots[padding] = np.nan
    slack = ((1 if per_token else tokens) * dim + 8) * 2.0**-52
    # Token after token: NumPy's own sum takes another order for other shapes.
    mean = dots if per_token else np.add.accumulate(dots, axis=1)[:, -1] / tokens
    return np.maximum((1 + mean) / 2 - slack, 0.0)
