"""Values that lie on a line, as two sums that vectors compute faster than they look them up, bit by bit the same.

A table has values[i] = float32(scale · i + offset), computed in float64. With x = i − centre, next to the line's zero,

    values[i] = float32(float32(x · high + centre_high) + float32(x · low + centre_low)),

each bracket with one rounding (a fused multiplication and addition). `high` and `centre_high` have so few bits that the
first bracket is exact; the second one is what they leave, some 2^12 times smaller, and so is its rounding. Whether that
gives the table's bits is tried on all of its entries.
"""

from __future__ import annotations

import numpy as np

# Bits of a float32.
_BITS = 24
# Neighbours of `high` that are tried.
_TRIES = (0, 1, -1, 2, -2, 3, -3)


def lines(values: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return centre, high, centre_high, low and centre_low of every channel.

    Args:
        values: [3, n] float32.
        scale, offset: [3] float64: values[c, i] = float32(scale[c]·i + offset[c]), or nearly so.

    Returns:
        [3, 5] float32, or [0, 5] where a channel has no such line.
    """
    # Of numbers beyond float32 there is no line.
    with np.errstate(over="ignore", invalid="ignore"):
        found = [_line(*channel) for channel in zip(values, scale, offset, strict=True)]
    rows = [row for row in found if row is not None]
    return np.array(rows if len(rows) == len(found) else [], np.float32).reshape(-1, 5)


def _line(values: np.ndarray, scale: float, offset: float) -> np.ndarray | None:
    places = np.arange(len(values))
    if scale == 0:
        return None
    centre = float(np.clip(np.round(-2 * offset / scale) / 2, 0, len(values)))
    x = places - centre
    # Twice x are integers of so many bits; what `high` has is left of a float32.
    bits = _BITS - 2 - int(2 * np.abs(x).max()).bit_length()
    step = 2.0 ** (np.frexp(scale)[1] - bits)
    for neighbour in _TRIES:
        high = (np.round(scale / step) + neighbour) * step
        at_centre = scale * centre + offset
        centre_high = np.round(at_centre / step * 2) / 2 * step
        # Multiples of a number so small that float64 adds them exactly.
        least = step * 2.0**-_BITS
        low, centre_low = (np.round(rest / least) * least for rest in (scale - high, at_centre - centre_high))
        line = np.array([centre, high, centre_high, low, centre_low])
        if np.array_equal(line.astype(np.float32), line) and np.array_equal(_on_line(x, *line[1:]), values):
            return line
    return None


def _on_line(x: np.ndarray, high: float, centre_high: float, low: float, centre_low: float) -> np.ndarray:
    return ((x * high + centre_high).astype(np.float32) + (x * low + centre_low).astype(np.float32)).astype(
        np.float32
    )
