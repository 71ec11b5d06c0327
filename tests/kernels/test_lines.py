"""Lines have the bits of the tables that they replace, or there are none."""

import numpy as np
import pytest

from fsfast.kernels.lines import lines

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def fused(x: np.ndarray, factor: np.float32, summand: np.float32) -> np.ndarray:
    """A multiplication and addition of float32 with one rounding: long doubles hold 64 bits, enough for these."""
    return (x.astype(np.longdouble) * np.longdouble(factor) + np.longdouble(summand)).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "offset", "reach", "why"),
    [
        (np.full(3, 2 / 255), np.full(3, -1.0), 584, "pixels in [−1, 1]"),
        (np.full(3, 1 / 255), np.zeros(3), 584, "pixels in [0, 1]"),
        (np.ones(3), np.zeros(3), 2336, "levels"),
        (np.full(3, 0.93 * 2 / 255), np.full(3, -0.93), 280, "diffused pixels"),
        (1 / CLIP_STD / 255, -CLIP_MEAN / CLIP_STD, 280, "normalised pixels, whose zero is no level"),
        (np.full(3, -2 / 255), np.full(3, 1.0), 10, "falling"),
        (np.full(3, 1.0), np.full(3, 5000.0), 10, "zero far outside of the table"),
    ],
)
def test_lines_have_the_bits_of_the_table(scale, offset, reach, why):
    places = np.arange(256 + 2 * reach)
    shifted = offset - reach * scale
    values = (scale[:, None] * places + shifted[:, None]).astype(np.float32)
    found = lines(values, scale, shifted)
    assert found.shape == (3, 5), why
    assert found.dtype == np.float32
    for row, (centre, high, centre_high, low, centre_low) in zip(values, found, strict=True):
        x = places.astype(np.float32) - centre
        np.testing.assert_array_equal(
            fused(x, high, centre_high) + fused(x, low, centre_low), row, err_msg=why
        )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda values: values * np.float32(1.0001), "another slope"),
        (lambda values: np.nextafter(values, np.float32(9)), "every value one step further"),
        (
            lambda values: np.where(values == values[1, 77], np.nextafter(values, np.float32(9)), values),
            "one value",
        ),
        (lambda values: np.sqrt(np.abs(values)), "no line"),
        (lambda values: values * np.float32("nan"), "no numbers"),
    ],
)
def test_no_lines_for_other_values(change, why):
    scale, offset = np.full(3, 2 / 255), np.full(3, -1.0)
    values = (scale[:, None] * np.arange(600) + offset[:, None]).astype(np.float32)
    assert lines(values, scale, offset).shape == (3, 5)
    assert lines(change(values).astype(np.float32), scale, offset).shape == (0, 5), why


def test_no_lines_for_constant_and_for_tiny_values():
    for scale in (0.0, 1e-44, 1e300):
        with np.errstate(over="ignore"):
            values = (np.full((3, 1), scale) * np.arange(300)).astype(np.float32)
        assert lines(values, np.full(3, scale), np.zeros(3)).shape == (0, 5)
