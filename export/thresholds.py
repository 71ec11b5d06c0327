"""The noise thresholds of an engine, in extended precision."""

from __future__ import annotations

import mpmath
import numpy as np

from fsfast.kernels.tables import noise_reach

# Φ(9.2) differs from 1 by 2^-65; 60 digits are 199 bits.
_DIGITS = 60


def gaussian_thresholds(sigma: float) -> np.ndarray:
    """Return the thresholds of N = round(255·σ·Z), Z standard normal: N = #{j: U ≥ T_j} − K.

    T_j = round(2^64·Φ((j − K − ½)/s)) for j = 1 … 2K, s = 255σ; the upper half is 2^64 − T of its mirror
    image. K = `noise_reach(sigma)`: thresholds that would round to 0 (always counted) or 2^64 (never
    counted) are left out together with the values of N that they would add. So every T_j lies strictly
    between 0 and 2^64, and N is the same for every U as with any larger K.

    Args:
        sigma: σ in [0, 1] pixel units, at least 0.00022.

    Returns:
        [2K] uint64, ascending.

    Raises:
        ValueError: σ is too small or not finite.
    """
    reach = noise_reach(sigma)
    with mpmath.workdps(_DIGITS):
        s = 255 * mpmath.mpf(sigma)
        lower = [int(mpmath.nint(2**64 * mpmath.ncdf((j - reach - 0.5) / s))) for j in range(1, reach + 1)]
        beyond = int(mpmath.nint(2**64 * mpmath.ncdf((-reach - 0.5) / s)))
    if lower[0] < 1 or beyond != 0:
        raise ValueError(f"sigma = {sigma} lies on the edge between two reaches; choose a slightly other one")
    return np.array(lower + [2**64 - t for t in reversed(lower)], np.uint64)
