"""Which images of a batch an index names: positions, slices and masks as NumPy reads them."""

from __future__ import annotations

from typing import Any

import numpy as np


def selected(index: Any, count: int) -> slice | np.ndarray:
    """Return what picks images from arrays of `count`, so that a batch stays a batch.

    Args:
        index: a position (negative ones count from the end), a slice, positions [k], or a mask [count] of bools.
        count: images in the batch.

    Returns:
        A slice with a step of 1, whose result shares memory, or positions [k] int64 in 0 … count − 1.

    Raises:
        IndexError: a position that there is not, or a mask of another length.
        TypeError: something else.
    """
    if isinstance(index, slice):
        start, stop, step = index.indices(count)
        return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
    # Neither is an array whatever NumPy makes of it: out["features"], out[0, 1].
    given = None if isinstance(index, (str, bytes, tuple)) else np.asarray(index)
    if given is not None and given.ndim == 0 and given.dtype.kind in "iu":
        position = int(given)
        if not -count <= position < count:
            raise IndexError(f"wanted the position of one of {count} images, got {position}")
        return slice(position % count, position % count + 1)
    if given is not None and given.ndim == 1 and given.size == 0:
        given = given.astype(np.int64)
    if given is None or given.ndim != 1 or given.dtype.kind not in "iub":
        raise TypeError(
            "wanted the position of an image, a slice, positions [k] or a mask of bools, got "
            f"{index if isinstance(index, (str, bytes, tuple)) else type(index).__name__!r}; "
            "index .features for tokens and dimensions"
        )
    return np.arange(count)[given]
