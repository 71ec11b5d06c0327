"""Guarantees in words: whatever is printed can be relied on."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from fsfast.certificates.wording import (
    round_down,
    show_alpha,
    show_bound,
    show_confidence,
    show_epsilon,
    show_radius,
)


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (0.1, "0.9"),
        (0.05, "0.95"),
        (1e-3, "0.999"),
        (np.float64(0.001), "0.999"),
        (1e-7, "0.9999999"),
        (1.5e-7, "1 − 1.5e-07"),
        (0.123456789, "1 − 0.123456789"),
        (1e-15, "1 − 1e-15"),
        # 1 − α is 1.0 as a float.
        (1e-17, "1 − 1e-17"),
        (5e-324, "1 − 5e-324"),
        (0.5, "0.5"),
        (1 - 2**-53, f"1 − {1 - 2**-53!r}"),
    ],
)
def test_a_confidence_is_exact(alpha, said):
    assert show_confidence(alpha) == said


@pytest.mark.parametrize("exponent", range(1, 16))
def test_no_confidence_is_rounded_up(exponent):
    for digits in ("1", "1.23456789", "9.99999999"):
        alpha = float(f"{digits}e-{exponent}")
        said = show_confidence(alpha)
        number = 1 - Decimal(said.removeprefix("1 − ")) if said.startswith("1 − ") else Decimal(said)
        assert number == 1 - Decimal(repr(alpha))
        assert float(show_alpha(alpha)) == alpha


def test_bounds_and_radii_are_rounded_down():
    rng = np.random.default_rng(0)
    values = [*rng.random(200), *(np.nextafter(k / 1000, (0, 1)[i]) for k in range(1, 1000) for i in (0, 1))]
    for value in map(float, values):
        for said in (show_bound(value), show_radius(value)):
            assert Decimal(said) <= Decimal(value) < Decimal(said) + Decimal("0.001")
    assert show_bound(0.9996) == "0.999"
    assert show_bound(None) == show_bound(float("nan")) == show_radius(0.0) == "none"
    assert show_radius(1e-9) == "0.000"
    assert round_down(Decimal("0.9765"), 3) == "0.976"
    assert round_down(-0.0123, 3) == "-0.013"


def test_a_radius_is_not_said_to_be_larger_than_it_is():
    assert show_epsilon(0.25) == "0.25"
    assert show_epsilon(3 * 0.15) == "0.45"
    assert show_epsilon(0.12345678) == "0.12345678"
    assert show_epsilon(0.12345612) == "0.123456"
    assert show_epsilon(2) == "2"
