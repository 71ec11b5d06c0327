"""From the cosine of concatenated tokens to the share of tokens that keep their direction."""

from __future__ import annotations

import math


def token_share_below(b: float | None, b_ip: float | None, t: float) -> float:
    """Return an upper bound of the share of tokens j with Cos(f̂_j(x'), u_j) < t.

    min{(1 − b²)/(1 − t²), (1 − b_ip)/(1 − t)}, and never above 1. First: with y_j the norms of the tokens of
    f̂(x')/‖f̂(x')‖, b ≤ Σ y_j cos_j/√L ≤ √(1 − s + st²) for a share s below t (Cauchy–Schwarz). Second: ‖f̂_j‖ ≤ 1/√L,
    so b_ip ≤ Σ⟨f̂_j, u_j⟩ ≤ 1 − s + st. A zero token of f̂(x') counts as below t; a token whose anchor is zero has
    no cosine and is not counted. Rounded up; a share of L tokens is a multiple of 1/L, so callers may round L·s down.

    Args:
        b: certified lower bound of the cosine of the concatenated tokens, or None.
        b_ip: certified lower bound of ⟨f̂(x'), u⟩, or None.
        t: the cosine in question, in [0, 1).

    Returns:
        The share, in [0, 1]; 1.0 says nothing.

    Raises:
        ValueError: t outside [0, 1), a bound outside [0, 1].

    Source: docs/certificates.md §8.
    """
    if not 0.0 <= t < 1.0:
        raise ValueError(f"wanted a cosine t in [0, 1), got {t}; a token below 0 is below t, too")
    for bound in (b, b_ip):
        if bound is not None and not 0.0 <= bound <= 1.0:
            raise ValueError(f"wanted certified bounds in [0, 1] or None, got {bound}")
    b, b_ip = b or 0.0, b_ip or 0.0
    shares = ((1.0 - b) * (1.0 + b) / ((1.0 - t) * (1.0 + t)), (1.0 - b_ip) / (1.0 - t))
    # Five roundings each.
    return min(1.0, math.nextafter(min(shares) * (1.0 + 2.0**-50), 2.0))
