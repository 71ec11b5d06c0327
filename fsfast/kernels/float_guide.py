"""The look-up table of noisy_batch: how many thresholds lie below a uniform number, by its high word.

The high word h of U, read as a signed integer and rounded to float32, has its sign, its exponent and the leading bits
of its fraction in the leading bits of the float: one conversion and one shift give a bucket. Signed numbers near 0 are
the two ends of [0, 2^32), where thresholds lie densely; there buckets are narrow. Float32 rounds monotonically, so a
bucket is an interval of high words.

An entry of 32 bits has two fields: a count above `field_bits` lower bits. With d = `dropped_bits`, s = entry + (h >> d)
in 32 bits is

* count and lower bits ≠ 0: #{j: U ≥ T_j} is s >> field_bits, whatever U's low word;
* lower bits = 0: a threshold shares h >> d, and the low word has to be looked at.

For the bucket's only threshold t, the entry is (thresholds below + 1) << field_bits less t's own h >> d: the sum falls
short of the next count exactly where h >> d is smaller. d is the smallest number for which a bucket's width fits.
"""

from __future__ import annotations

import numpy as np

# Sign and exponent of float32.
_LEADING_BITS = 9
_FRACTION_BITS = range(4, 12)
# At most this share of the uniform numbers may need their low word: 1 % of the programs that draw 1024.
_UNDECIDED_SHARE = 1e-5


def field_bits(thresholds: int) -> int:
    """Return how many lower bits of an entry are no part of the count, for a number of thresholds."""
    return 32 - max(1, thresholds.bit_length())


def fraction_bits(entries: int) -> int:
    """Return how many bits of the fraction choose one of a guide's entries.

    Raises:
        ValueError: no guide has as many entries.
    """
    bits = entries.bit_length() - 1 - _LEADING_BITS
    if bits not in _FRACTION_BITS or entries != 1 << (bits + _LEADING_BITS):
        raise ValueError(f"wanted a guide of float_guide(), got {entries} entries")
    return bits


def dropped_bits(fraction: int, field: int) -> int:
    """Return d: the widest buckets hold 2^(30 − fraction) high words, and half as many as a field after d shifts."""
    return max(0, 31 - fraction - field)


def float_guide(thresholds: np.ndarray) -> np.ndarray:
    """Return the entries, [2^(9 + fraction bits)] uint32, or none where thresholds lie too densely for any guide.

    The smallest guide is taken that rarely leaves a number undecided.

    Args:
        thresholds: [2K] uint64, ascending.

    Raises:
        ValueError: 2^21 thresholds or more.
    """
    count = len(thresholds)
    if count >= 1 << 21:
        raise ValueError(f"wanted fewer than 2^21 thresholds, got {count}")
    best = np.empty(0, np.uint32)
    for fraction in _FRACTION_BITS:
        drop = dropped_bits(fraction, field_bits(count))
        guide = _entries((thresholds >> np.uint64(32)).astype(np.int64), fraction, drop, field_bits(count))
        if guide is not None:
            best = guide
            if count * 2.0 ** (drop - 32) <= _UNDECIDED_SHARE:
                break
    return best


def bucket(high: np.ndarray, fraction: int) -> np.ndarray:
    """Return the buckets of high words [n] uint32: [n] int64."""
    bits = high.view(np.int32).astype(np.float32).view(np.uint32)
    return (bits >> np.uint32(23 - fraction)).astype(np.int64)


def _entries(high: np.ndarray, fraction: int, drop: int, field: int) -> np.ndarray | None:
    """Return the entries, or None where a bucket of several h >> drop has more than one threshold."""
    size = 1 << (_LEADING_BITS + fraction)
    first, last = _bounds(size, 23 - fraction)
    below = np.searchsorted(high, first)
    inside = np.searchsorted(high, last, side="right") - below
    single = first >> drop == last >> drop
    used = first <= last
    if (used & (inside > 1) & ~single).any():
        return None
    # Where h >> drop begins to count: the threshold; for none inside, so far below that lower bits are never 0.
    nearest = high[np.minimum(below, max(len(high) - 1, 0))] if len(high) else np.zeros(size, np.int64)
    begin = np.where(inside > 0, nearest >> drop, (first >> drop) - 1)
    count = below + (inside > 0)
    return np.where(used, (count << field) - begin, 0).astype(np.uint32)


def _bounds(size: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last high word of every bucket; first > last for the empty ones."""
    # The smallest distance from 0 that is rounded to a bucket's smallest float or beyond, and that of the next bucket.
    edge = (np.arange(size // 2 + 1, dtype=np.uint32) << np.uint32(shift)).view(np.float32)
    # Beyond lie infinity and NaN.
    edge = np.where(np.isfinite(edge), edge, np.float32(2.0**32)).astype(np.float64)
    # Ties go to the even float, which a bucket's smallest is: half a step of the floats below.
    half = np.where(edge > 2**24, np.spacing(np.nextafter(edge.astype(np.float32), 0)) / 2.0, 0.0)
    near = np.minimum(np.ceil(edge - half), 2**31).astype(np.int64)
    smallest, largest = near[:-1], near[1:] - 1
    # 2^31 exists with the negative sign only.
    below_zero = np.minimum(np.ceil(edge - half), 2**31 + 1).astype(np.int64)
    nearest, farthest = np.maximum(below_zero[:-1], 1), below_zero[1:] - 1
    return np.concatenate([smallest, 2**32 - farthest]), np.concatenate([largest, 2**32 - nearest])
