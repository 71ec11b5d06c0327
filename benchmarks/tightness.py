"""How tight the certificates are: reference values, and how many samples a decision takes.

`python -m benchmarks.tightness` writes two files to benchmarks/results/certificates: tightness.csv (bounds whose values
are known) and samples.csv (samples until "cosine ≥ 0.5 at d = ε/σ = 1" is certified for Beta scores).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.coverage import RESULTS, beta, write_rows
from fsfast.bounds import (
    MeanMethod,
    SequentialMean,
    SequentialProportion,
    mean_lower_bound,
    perpendicular_upper_bound,
    proportion_lower_bound,
)
from fsfast.certificate import cosine_curve, cosine_lower_bound

# c, d and the best bound that the mean alone allows, computed independently: docs/certificates.md §4.
SHARP = (
    (0.94, 0.5, 0.9228),
    (0.94, 1.0, 0.8500),
    (0.94, 1.5, 0.6346),
    (0.81, 1.0, 0.5194),
    (0.985, 2.0, 0.7099),
)
# n, ‖P_⊥ m̂‖ (None: not used) and an earlier simulation of `joint` at d = .5, 1, 1.5, 2, to two digits.
JOINT = (
    (1000, None, (0.91, 0.87, 0.77, 0.49)),
    (1000, 0.05, (0.96, 0.90, 0.79, 0.49)),
    (10_000, None, (0.93, 0.90, 0.86, 0.78)),
    (10_000, 0.05, (0.97, 0.94, 0.88, 0.78)),
)
DISTANCE, TARGET, ALPHA = 1.0, 0.5, 1e-3
MEAN, SPREAD = 0.97, 0.01

# Thresholds in spreads below the pilot's median.
_SPREADS = (0.0, 1.0, 2.0, 3.5, 5.5, 9.0)
_PILOT = 64


@dataclass(frozen=True)
class Value:
    """A computed bound and its reference."""

    quantity: str
    computed: float
    reference: float
    difference: float


@dataclass(frozen=True)
class Samples:
    """Samples until the target is certified."""

    method: str
    mean_cosine: float
    sd_score: float
    d: float
    target: float
    alpha: float
    runs: int
    p20: float
    median: float
    p80: float


def values() -> Iterator[Value]:
    """Check values of the bounds."""
    for c, d, reference in SHARP:
        computed = cosine_lower_bound(d, mean=0.5 * (1.0 + c), method="sharp") or 0.0
        yield Value(f"sharp, c = {c:g}, d = {d:g}", computed, reference, computed - reference)
    for n, norm, references in JOINT:
        d = np.array([0.5, 1.0, 1.5, 2.0])
        for at, computed, reference in zip(d, joint_curve(d, n, norm), references, strict=True):
            name = f"joint, n = {n}, norm across {norm or 'unused'}, d = {at:g}"
            yield Value(name, float(computed), reference, float(computed) - reference)


def joint_curve(d: np.ndarray, n: int, norm: float | None, seed: int = 0) -> np.ndarray:
    """Return `joint` for n simulated scores: α is spent as .2 on the mean, .6 on six caps, .2 on ρ."""
    rng = np.random.default_rng(seed)
    thresholds, scores = pilot_thresholds(rng), beta(rng, MEAN, SPREAD, (n,))
    mean = float(mean_lower_bound(scores, 0.2 * ALPHA))
    hits = (scores[:, None] >= thresholds).sum(axis=0)
    shares = np.asarray(proportion_lower_bound(hits, n, 0.6 * ALPHA / len(thresholds)))
    perp = None if norm is None else perpendicular_upper_bound(norm, 2.0 * mean - 1.0, n, 0.2 * ALPHA)
    return cosine_curve(d, mean=mean, caps=list(zip(2.0 * thresholds - 1.0, shares, strict=True)), perp=perp)


def pilot_thresholds(rng: np.random.Generator) -> np.ndarray:
    """Return thresholds of the score from pilot samples."""
    pilot = beta(rng, MEAN, SPREAD, (_PILOT,))
    median = float(np.median(pilot))
    spread = median - float(np.quantile(pilot, 0.16))
    return np.array([median - k * spread for k in _SPREADS])


def required_mean(method: str) -> float:
    """Return the smallest score bound from which a method certifies the target."""
    low, high = 0.5, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        bound = cosine_lower_bound(DISTANCE, mean=middle, method=method)  # type: ignore[arg-type]
        if bound is not None and bound >= TARGET:
            high = middle
        else:
            low = middle
    return high


def samples(runs: int, seed: int = 0) -> Iterator[Samples]:
    """How many samples each method takes."""
    rng = np.random.default_rng(seed)
    fcsb, sharp = required_mean("fcsb"), required_mean("sharp")
    yield _summary("fixed n: hoeffding + fcsb", [_hoeffding_samples(fcsb)])
    yield _summary("product + fcsb", _mean_samples(rng, runs, "product", fcsb, 4))
    yield _summary("product + sharp", _mean_samples(rng, runs, "product", sharp, 1))
    yield _summary("mixture + sharp", _mean_samples(rng, runs, "mixture", sharp, 1))
    yield _summary("joint, sequential", [joint_samples(rng, False) for _ in range(runs)])
    yield _summary("joint with ρ, sequential", [joint_samples(rng, True) for _ in range(runs)])


def _hoeffding_samples(required: float) -> int:
    """Return the fixed n at which half of the runs succeed: the median run has its mean at MEAN."""
    return int(np.ceil(np.log(1.0 / ALPHA) / (2.0 * (MEAN - required) ** 2)))


def _mean_samples(
    rng: np.random.Generator, runs: int, method: MeanMethod, required: float, chunk: int
) -> list[int]:
    """Return, per run, the samples until the bound of the mean is what is required."""
    bound = SequentialMean(ALPHA, method, (runs,))
    needed = np.zeros(runs, dtype=int)
    while not needed.all():
        reached = bound.update(beta(rng, MEAN, SPREAD, (runs, chunk))) >= required
        needed[reached & (needed == 0)] = bound.n
    return needed.tolist()


def joint_samples(rng: np.random.Generator, with_perp: bool, chunk: int = 4, most: int = 2000) -> int:
    """Return the samples until `joint` certifies the target, looking every `chunk` samples.

    A quarter of α goes to the mean, the rest to six caps; with ρ, half of α to the caps and a quarter to ρ. Across the
    anchor features are independent of each other: their mean's norm is about √((1 − c²)/n).
    """
    thresholds = pilot_thresholds(rng)
    share = 0.5 if with_perp else 0.75
    mean = SequentialMean(0.25 * ALPHA)
    caps = SequentialProportion(share * ALPHA / len(thresholds), (len(thresholds),))
    while mean.n < most:
        scores = beta(rng, MEAN, SPREAD, (chunk,))
        lower = float(mean.update(scores))
        shares = caps.update((scores[:, None] >= thresholds).sum(axis=0), chunk)
        pairs = list(zip(2.0 * thresholds - 1.0, np.asarray(shares), strict=True))
        perp = None
        if with_perp and lower > 0.5:
            norm = float(np.sqrt((1.0 - (2.0 * MEAN - 1.0) ** 2) / mean.n))
            perp = perpendicular_upper_bound(norm, 2.0 * lower - 1.0, mean.n, 0.25 * ALPHA, anytime=True)
        bound = cosine_lower_bound(DISTANCE, mean=lower, caps=pairs, perp=perp)
        if bound is not None and bound >= TARGET:
            break
    return mean.n


def _summary(method: str, needed: Sequence[int]) -> Samples:
    p20, median, p80 = np.percentile(needed, (20, 50, 80))
    return Samples(
        method,
        2.0 * MEAN - 1.0,
        SPREAD,
        DISTANCE,
        TARGET,
        ALPHA,
        len(needed),
        float(p20),
        float(median),
        float(p80),
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, print and write both files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tightness", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs of every method (default: 200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results files")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f"wanted --runs ≥ 1, got {args.runs}")
    computed, needed = list(values()), list(samples(args.runs))
    write_rows(args.out / "tightness.csv", computed)
    write_rows(args.out / "samples.csv", needed)
    for value in computed:
        print(f"{value.quantity:48} {value.computed:.6f}  reference {value.reference:.4f}")
    for line in needed:
        print(f"{line.method:28} {line.median:7.0f} samples (p20 {line.p20:.0f}, p80 {line.p80:.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
