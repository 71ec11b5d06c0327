"""Guarantees in words: a bound, a radius, a probability is never rounded up."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

# 1 − α is written out up to so many digits after the point.
_DIGITS = 7


def round_up(value: float, digits: int) -> str:
    """Return a number with so many digits after the point, the next one that is not below it."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def round_down(value: float | Decimal, digits: int) -> str:
    """Return a number with so many digits after the point, the next one that is not above it."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def show_bound(bound: float | None) -> str:
    """Return a bound, rounded down to three digits; "none" for None and for NaN."""
    return "none" if bound is None or bound != bound else round_down(bound, 3)


def show_radius(radius: float) -> str:
    """Return a radius, rounded down to three digits; "none" for 0."""
    return round_down(radius, 3) if radius > 0 else "none"


def show_epsilon(epsilon: float) -> str:
    """Return the radius at which a bound is stated: six digits, or all where six would say more than it is."""
    short = f"{epsilon:g}"
    return short if float(short) <= epsilon * (1 + 1e-12) else repr(float(epsilon))


def show_alpha(alpha: float) -> str:
    """Return α with all its digits."""
    return repr(float(alpha))


def show_confidence(alpha: float) -> str:
    """Return 1 − α, exactly: as a decimal where it is short, else as a difference."""
    exact = Decimal(show_alpha(alpha))
    _, _, exponent = exact.as_tuple()
    assert isinstance(exponent, int)
    return str(1 - exact) if exponent >= -_DIGITS else f"1 − {show_alpha(alpha)}"
