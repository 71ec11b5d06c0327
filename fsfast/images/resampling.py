"""Antialiased resizing in whole numbers: the same levels on every machine and under every version of Pillow.

The filters, their supports and the order of the passes (along rows, then along columns, clipped between) are Pillow's.
Weights are whole numbers over 2²⁰ that follow from exact arithmetic, no pass rounds, and every sum stays below 2⁵³: so
float64 holds all of them exactly, in any order of summation. The result is rounded once, to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fsfast.errors import ImageError

# What every row of weights adds up to.
UNIT = 1 << 20
# Weights of one axis; a side of half a million pixels.
MAX_WEIGHTS = 1 << 21
# π and the digits in which sines are computed.
_DIGITS = 10**70
_PI = 31415926535897932384626433832795028841971693993751058209749445923078164
# Elements of float64 that are at work at a time.
_STRIP = 1 << 21
# Outputs whose inputs are multiplied as one block.
_TILE = 16


@dataclass(frozen=True, eq=False)
class Axis:
    """How one axis of a picture is resampled: output o is (Σ_k weights[o, k]·x[starts[o] + k] + border[o]·c) / 2²⁰.

    Attributes:
        length: inputs.
        starts: [m] int64, the first input of every output.
        weights: [m, taps] int64.
        border: [m] int64, what falls on the border of colour c around the picture; 0 where there is none.
    """

    length: int
    starts: np.ndarray
    weights: np.ndarray
    border: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def within(self, first: int, length: int) -> Axis:
        """Return the axis of a picture that covers only `length` inputs from `first` on, and has a border around."""
        taps = min(self.weights.shape[1], length)
        starts = np.clip(self.starts - first, 0, length - taps)
        inputs = starts[:, None] + np.arange(taps) + first - self.starts[:, None]
        inside = (inputs >= 0) & (inputs < self.weights.shape[1])
        weights = np.where(
            inside, np.take_along_axis(self.weights, np.clip(inputs, 0, self.weights.shape[1] - 1), axis=1), 0
        )
        return Axis(length, starts, weights, UNIT - weights.sum(axis=1))

    def block(self, outputs: slice, inputs: slice) -> np.ndarray:
        """Return [outputs, inputs] float64: the weights of a part as a matrix."""
        starts = self.starts[outputs]
        matrix = np.zeros((len(starts), inputs.stop - inputs.start))
        rows, taps = np.nonzero(self.weights[outputs])
        columns = starts[rows] + taps - inputs.start
        inside = (columns >= 0) & (columns < matrix.shape[1])
        matrix[rows[inside], columns[inside]] = self.weights[outputs][rows[inside], taps[inside]]
        return matrix

    def touched(self, inputs: slice) -> slice:
        """Return the outputs that a run of inputs has a part in."""
        taps = self.weights.shape[1]
        return slice(
            int(np.searchsorted(self.starts + taps, inputs.start, "right")),
            int(np.searchsorted(self.starts, inputs.stop, "left")),
        )


@lru_cache(maxsize=256)
def axis(inputs: int, outputs: int, filter: str, first: int = 0, count: int | None = None) -> Axis:
    """Return how `inputs` pixels become `outputs`, of which `count` are kept from the `first` on.

    Args:
        inputs: pixels of the picture's side.
        outputs: pixels that this side is scaled to.
        filter: a key of `FILTERS`; its support grows with the scale where the picture shrinks.
        first, count: what is kept; count None: all.

    Raises:
        ImageError: the side is so long that there would be too many weights.
    """
    count = outputs if count is None else count
    support, kernel = FILTERS[filter]
    # Distances from an output's centre to inputs, in units of the filter, are whole numbers q over d.
    longer, d = max(inputs, outputs), 2 * max(inputs, outputs)
    reach = -(-support * longer // outputs)
    taps = min(inputs, 2 * reach + 2)
    if count * taps > MAX_WEIGHTS:
        raise ImageError(
            f"wanted a side of at most about {MAX_WEIGHTS * outputs // (4 * count)} pixels to resize, "
            f"got {inputs}; scale the image down first"
        )
    o = np.arange(first, first + count)
    centres = [(2 * int(i) + 1) * inputs // (2 * outputs) for i in o]
    starts = np.clip(np.array(centres, np.int64) - reach, 0, inputs - taps)
    j = starts[:, None] + np.arange(taps)
    q = (2 * j.astype(object) + 1) * outputs - ((2 * o.astype(object) + 1) * inputs)[:, None]
    weights = _whole(kernel(q, d))
    return Axis(inputs, starts, weights, np.zeros(count, np.int64))


def _whole(values: np.ndarray) -> np.ndarray:
    """Return [m, taps] int64 weights whose rows add up to 2²⁰, of whole numbers in proportion to them.

    Each is a neighbour of its exact value; those with the largest remainders are rounded up, the first of equal ones.
    """
    sums = values.sum(axis=1, keepdims=True)
    floors, remainders = values * UNIT // sums, values * UNIT % sums
    weights = floors.astype(np.int64)
    for row, rest in zip(weights, remainders, strict=True):
        up = np.argsort(-rest, kind="stable")[: UNIT - int(row.sum())]
        row[up] += 1
    return weights


def resample(
    pixels: np.ndarray, vertical: Axis, horizontal: Axis, colour: tuple[int, int, int]
) -> np.ndarray:
    """Return [len(vertical), len(horizontal), 3] uint8.

    Args:
        pixels: [h, w, 3] uint8, the inputs of both axes.
        vertical, horizontal: h and w inputs.
        colour: of the border, where there is one.
    """
    height, width = pixels.shape[:2]
    outside = np.array(colour, np.float64)
    columns = len(horizontal)
    # A row of the border is of one colour after the first pass, too.
    total = np.multiply.outer(vertical.border.astype(np.float64), np.tile(outside * UNIT, columns))
    rows = max(1, _STRIP // max(width, 3 * columns))
    tiles = _tiles(horizontal)
    for first in range(0, height, rows):
        strip = slice(first, min(height, first + rows))
        reached = vertical.touched(strip)
        if reached.start >= reached.stop:
            continue
        across = np.empty((strip.stop - strip.start, columns, 3))
        for channel in range(3):
            values = pixels[strip, :, channel].astype(np.float64)
            for outputs, inputs, matrix in tiles:
                border = horizontal.border[outputs] * outside[channel]
                across[:, outputs, channel] = values[:, inputs] @ matrix.T + border
        np.clip(across, 0.0, 255.0 * UNIT, out=across)
        total[reached] += vertical.block(reached, strip) @ across.reshape(len(across), -1)
    levels = np.floor(total / UNIT**2 + 0.5)
    return np.clip(levels, 0.0, 255.0).astype(np.uint8).reshape(len(vertical), columns, 3)


def _tiles(along: Axis) -> list[tuple[slice, slice, np.ndarray]]:
    """Return the outputs of an axis in runs, each with its run of inputs and the matrix between them."""
    tiles = []
    for first in range(0, len(along), _TILE):
        outputs = slice(first, min(len(along), first + _TILE))
        inputs = slice(
            int(along.starts[outputs].min()), int(along.starts[outputs].max()) + along.weights.shape[1]
        )
        tiles.append((outputs, inputs, along.block(outputs, inputs)))
    return tiles


def _box(q: np.ndarray, d: int) -> np.ndarray:
    """1 within half a pixel, ½ on its edge: in floating point, Pillow takes such a pixel or leaves it by chance."""
    return ((2 * abs(q) < d).astype(int) + (2 * abs(q) <= d).astype(int)).astype(object)


def _bilinear(q: np.ndarray, d: int) -> np.ndarray:
    return np.maximum(d - abs(q), 0)


def _bicubic(q: np.ndarray, d: int) -> np.ndarray:
    """Keys' cubic with a = −½, times 2d³."""
    r = abs(q)
    near = 3 * r**3 - 5 * d * r**2 + 2 * d**3
    far = -(r**3) + 5 * d * r**2 - 8 * d**2 * r + 4 * d**3
    return np.where(r < d, near, np.where(r < 2 * d, far, 0))


def _hamming(q: np.ndarray, d: int) -> np.ndarray:
    """(.54 + .46 cos πt) sin(πt)/(πt) for |t| < 1, t = q/d."""

    def value(r: int) -> int:
        if r == 0:
            return _DIGITS
        sine = _sine(r, d) * d * _DIGITS // (_PI * r)
        return (54 * _DIGITS + 46 * _sine(2 * r + d, 2 * d)) * sine // (100 * _DIGITS)

    return _by_distance(q, d, value)


def _lanczos(q: np.ndarray, d: int) -> np.ndarray:
    """sin(πt)/(πt) · sin(πt/3)/(πt/3) for |t| < 3, t = q/d."""

    def value(r: int) -> int:
        if r == 0:
            return _DIGITS
        return 3 * _sine(r, d) * _sine(r, 3 * d) * d**2 * _DIGITS // (_PI * r) ** 2

    return _by_distance(q, 3 * d, value)


def _by_distance(q: np.ndarray, end: int, value: Callable[[int], int]) -> np.ndarray:
    """Return value(|q|) for all |q| < end, 0 elsewhere; each distance is evaluated once."""
    known: dict[int, int] = {}

    def look_up(at: Any) -> int:
        r = abs(int(at))
        if r >= end:
            return 0
        if r not in known:
            known[r] = value(r)
        return known[r]

    return np.frompyfunc(look_up, 1, 1)(q)


def _sine(numerator: int, denominator: int) -> int:
    """Return sin(π·numerator/denominator) in units of 10⁻⁷⁰, numerator ≥ 0."""
    turns, rest = divmod(numerator, denominator)
    rest = min(rest, denominator - rest)
    x = _PI * rest // denominator
    square, term, total, k = x * x // _DIGITS, x, 0, 1
    while term:
        total += term
        term = -(term * square // _DIGITS) // ((k + 1) * (k + 2))
        k += 2
    return -total if turns % 2 else total


# Support, in pixels of the smaller of both scales, and values in proportion to the filter's at q/d, whole numbers.
FILTERS: dict[str, tuple[int, Callable[[np.ndarray, int], np.ndarray]]] = {
    "bicubic": (2, _bicubic),
    "bilinear": (1, _bilinear),
    "box": (1, _box),
    "hamming": (1, _hamming),
    "lanczos": (3, _lanczos),
}
