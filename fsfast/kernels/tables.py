"""Look-up tables of the kernels: prepared once per engine, used for every micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, floor, isfinite, sqrt

import numpy as np

from fsfast.kernels.casts import from_float32
from fsfast.kernels.float_guide import float_guide
from fsfast.kernels.lines import lines
from fsfast.kernels.types import AxisTable, Dtype, NoiseTables, ResizeTables, no_lines

LEVELS = 255
PIXELS = 256


def normal_cdf(z: float) -> float:
    """Return Φ(z), the standard normal distribution function, to a relative error of about 1e-15."""
    return 0.5 * erfc(-z / sqrt(2.0))


def noise_reach(sigma: float) -> int:
    """Return K: the noise round(255σZ) drawn from 64 uniform bits lies in [−K, K].

    K is the largest k for which 2^64·Φ(−(k − ½)/(255σ)) rounds to at least 1 (about 9.16·255σ): a larger
    threshold would be 2^64, which no 64-bit uniform reaches. So every threshold fits into 64 bits exactly.

    Args:
        sigma: σ > 0, in [0, 1] pixel units.

    Raises:
        ValueError: σ is not a finite number, or so small (below 0.00022) that the noise is always 0.
    """
    s = LEVELS * sigma
    if not isfinite(sigma) or 2.0**64 * normal_cdf(-0.5 / s if s > 0 else -np.inf) < 0.5:
        raise ValueError(f"wanted a finite sigma of at least 0.00022 (in [0, 1] pixel units), got {sigma}")
    low, high = 1, max(2, floor(10 * s) + 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if 2.0**64 * normal_cdf(-(middle - 0.5) / s) >= 0.5 else (low, middle)
    return low


def noise_total_variation(sigma: float, elements: int) -> float:
    """Return η, an upper bound of the total variation between our noise and rounded Gaussian noise.

    η = D·(2K·2⁻⁶⁵ + 2Φ(−(K+½)/s)): every threshold is rounded by at most 2⁻⁶⁵, and the mass beyond K is
    moved to ±K (docs/certificates.md, section 5).

    Args:
        sigma: σ in [0, 1] pixel units.
        elements: D, the number of noisy values of one image: 3·H·W.

    Raises:
        ValueError: σ is unusable, or `elements` is not positive.
    """
    if elements <= 0:
        raise ValueError(f"wanted a positive number of elements, got {elements}")
    reach = noise_reach(sigma)
    per_element = 2 * reach * 2.0**-65 + 2 * normal_cdf(-(reach + 0.5) / (LEVELS * sigma))
    # The last factor covers the rounding of this computation.
    return elements * per_element * (1 + 1e-9)


def check_thresholds(thresholds: np.ndarray, sigma: float) -> None:
    """Raise unless `thresholds` are those of σ, as far as float64 can tell.

    Args:
        thresholds: [2K] uint64.
        sigma: σ in [0, 1] pixel units.

    Raises:
        ValueError: wrong type, length or order, not symmetric, or a threshold below the median that is off by more
            than its rounding, ½, and 1e-14 of itself. What passes is within a total variation of 1e-12 per value
            of the true table.
    """
    wanted = 2 * noise_reach(sigma)
    if thresholds.dtype != np.uint64 or thresholds.shape != (wanted,):
        raise ValueError(
            f"wanted {wanted} uint64 thresholds for sigma = {sigma}, got {thresholds.dtype} "
            f"{list(thresholds.shape)}; export the engine again"
        )
    if (thresholds[1:] < thresholds[:-1]).any():
        raise ValueError("the noise thresholds are not in ascending order; export the engine again")
    # In 64-bit arithmetic −T is 2^64 − T.
    if (thresholds[::-1] != -thresholds).any():
        raise ValueError("the noise thresholds are not symmetric about 2^63; export the engine again")
    # Φ is computed to a few units in the last place of itself; the upper half is the mirror image.
    boundaries = np.arange(1, wanted // 2 + 1) - wanted // 2 - 0.5
    exact = np.array([normal_cdf(boundary / (LEVELS * sigma)) for boundary in boundaries])
    lower = thresholds[: wanted // 2] / 2.0**64
    excess = float((np.abs(lower - exact) / (2.0**-65 + 1e-14 * exact)).max())
    if not excess <= 1.0:
        raise ValueError(
            f"the noise thresholds deviate from sigma = {sigma} by {excess:.3g} times their rounding; export the "
            "engine again"
        )


def noise_tables(thresholds: np.ndarray, scale: np.ndarray, offset: np.ndarray, dtype: Dtype) -> NoiseTables:
    """Return what turns uniform bits and a pixel x into the float of v = x + N.

    Args:
        thresholds: [2K] uint64, ascending; not necessarily those of a Gaussian.
        scale, offset: [3] float64 per channel: the float of v is scale·v + offset.
        dtype: type of the floats: computed in float64, rounded to float32 and then to `dtype`.

    Raises:
        ValueError: wrong shape, order or values.
        TypeError: thresholds that are not uint64.
    """
    scale, offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
    if thresholds.dtype != np.uint64:
        raise TypeError(f"wanted uint64 thresholds, got {thresholds.dtype}")
    if thresholds.ndim != 1 or len(thresholds) % 2 or (thresholds[1:] < thresholds[:-1]).any():
        raise ValueError("wanted an even number of thresholds in ascending order")
    if scale.shape != (3,) or offset.shape != (3,) or not np.isfinite([scale, offset]).all():
        raise ValueError(f"wanted 3 finite scales and offsets, got {scale.tolist()} and {offset.tolist()}")
    reach = len(thresholds) // 2
    levels = np.arange(-reach, PIXELS + reach)
    values = (scale[:, None] * levels + offset[:, None]).astype(np.float32)
    thresholds = np.ascontiguousarray(thresholds)
    return NoiseTables(
        thresholds,
        float_guide(thresholds),
        np.ascontiguousarray(from_float32(values, dtype)),
        lines(values, scale, offset - reach * scale) if dtype == "float32" else no_lines(),
    )


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = −0.5, as in Pillow and in torch with antialiasing."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bicubic": (2.0, _bicubic),
    "bilinear": (1.0, _bilinear),
}


def resize_tables(source: tuple[int, int], target: tuple[int, int], kernel: str = "bicubic") -> ResizeTables:
    """Return the tables of an antialiased resize with the semantics of Pillow and of torch (antialias=True).

    Args:
        source: (H, W) of the input.
        target: (h, w) of the output.
        kernel: "bicubic" (a = −0.5) or "bilinear".

    Raises:
        ValueError: a size below 1, or an unknown kernel.
    """
    if min(*source, *target) < 1:
        raise ValueError(f"wanted sizes of at least 1 pixel, got {source} to {target}")
    if kernel not in _KERNELS:
        raise ValueError(f"wanted a kernel among {', '.join(_KERNELS)}, got {kernel!r}")
    return ResizeTables(_axis_table(source[0], target[0], kernel), _axis_table(source[1], target[1], kernel))


def _axis_table(size: int, out: int, kernel: str) -> AxisTable:
    if size == out:
        return AxisTable(np.arange(out, dtype=np.int32), np.ones((out, 1), np.float32), size)
    radius, function = _KERNELS[kernel]
    scale = size / out
    stretch = max(scale, 1.0)
    centre = (np.arange(out) + 0.5) * scale
    start = np.maximum((centre - radius * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + radius * stretch + 0.5).astype(np.int64), size)
    position = start[:, None] + np.arange((end - start).max())
    weights = function((position - centre[:, None] + 0.5) / stretch)
    weights = np.where(position < end[:, None], weights, 0.0)
    weights /= weights.sum(1, keepdims=True)
    return AxisTable(start.astype(np.int32), weights.astype(np.float32), size)
