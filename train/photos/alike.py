"""Pictures that are almost the same: one photograph in two sizes, or packed twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

_SIDE, _LOW = 32, 8


def perceptual_hash(picture: Image.Image) -> NDArray[np.bool_]:
    """Return 64 bits that change little when a picture is resized or compressed (pHash).

    Whether each of the 8×8 lowest cosine coefficients of the picture, grey and 32×32, exceeds their median.
    """
    grey = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, np.float64), norm="ortho")[:_LOW, :_LOW].ravel()
    return np.asarray(low > np.median(low[1:]))


def first_of_each(hashes: Sequence[NDArray[np.bool_]], most: int) -> list[int]:
    """Return the places of those that differ in more than `most` bits from each that is kept before them."""
    kept: list[int] = []
    for place, bits in enumerate(hashes):
        if all(np.count_nonzero(bits != hashes[other]) > most for other in kept):
            kept.append(place)
    return kept
