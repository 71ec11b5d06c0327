"""What the mathematics of a certificate costs, without sampling: cases of the registry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.measuring.harness import Row, measure, row
from fsfast.bounds import mean_lower_bound
from fsfast.bounds.cosine import cosine_curve, cosine_lower_bound, radius

# Constants as 1,000 samples give them for concentrated scores.
KNOWN = {
    "mean": 0.985,
    "caps": [(0.99, 0.6), (0.985, 0.75), (0.98, 0.88), (0.97, 0.93), (0.95, 0.97), (0.9, 0.98)],
    "perp": 0.05,
}
RADII = np.linspace(0.0, 3.0, 64)


def curves() -> Iterator[Row]:
    """Curves of 64 radii, and single numbers."""
    for method in ("joint", "sharp", "fcsb"):
        timing = measure(lambda method=method: cosine_curve(RADII, **KNOWN, method=method))  # type: ignore[misc]
        yield row("cosine_curve, 64 radii", method, 1, timing, 64 / 1e3, "thousand bounds/s")
    timing = measure(lambda: cosine_lower_bound(1.0, **KNOWN))  # type: ignore[arg-type]
    yield row("cosine_lower_bound", "joint", 1, timing, 1 / 1e3, "thousand bounds/s")
    timing = measure(lambda: radius(0.5, sigma=0.25, **KNOWN))  # type: ignore[arg-type]
    yield row("radius", "joint", 1, timing, 1 / 1e3, "thousand bounds/s")


def means() -> Iterator[Row]:
    """Confidence bounds of a mean."""
    scores = np.random.default_rng(0).beta(900.0, 28.0, (64, 1000))
    for method in ("mixture", "product"):
        timing = measure(lambda method=method: mean_lower_bound(scores, 1e-3, method))  # type: ignore[misc]
        yield row("mean_lower_bound, 64 × 1000 scores", method, 1, timing, 64 / 1e3, "thousand bounds/s")
