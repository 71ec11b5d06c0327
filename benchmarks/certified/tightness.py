"""How tight the certificates are: reference values, and how many samples a decision takes.

`python -m benchmarks.certified.tightness` writes two files to benchmarks/results/certificates: tightness.csv (bounds
whose values are known) and samples.csv (samples until "cosine ≥ 0.5 at d = ε/σ = 1" is certified for Beta scores).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.certified.coverage import RESULTS, beta
from benchmarks.measuring.files import write_table
from fsfast.bounds import MeanMethod, SequentialMean
from fsfast.bounds.cosine import cosine_curve, cosine_lower_bound
from fsfast.certificates.certification import Plan, decide, looks
from fsfast.certificates.evidence import PILOT, Budget, choose_thresholds, constants
from fsfast.certificates.statement import round_scores

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
    """Return `joint` for n simulated scores, with α spent as a certificate spends it; a norm of None says nothing."""
    rng = np.random.default_rng(seed)
    thresholds = choose_thresholds(scores_of(rng, PILOT))
    budget = Budget.of(ALPHA, len(thresholds), stopped=False)
    known = constants(scores_of(rng, n), thresholds, 1.0 if norm is None else norm, budget, 0.0)
    return cosine_curve(d, mean=known.mean, caps=known.caps, perp=known.perp)


def scores_of(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw scores as a certificate stores them."""
    return round_scores(beta(rng, MEAN, SPREAD, (n,)))


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
    yield _summary("joint, sequential", [joint_samples(rng) for _ in range(runs)])


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


def joint_samples(rng: np.random.Generator, most: int = 2000) -> int:
    """Return the samples until a certificate stops, looking where `certify(…, epsilon=)` looks."""
    thresholds, scores = choose_thresholds(scores_of(rng, PILOT)), scores_of(rng, most)
    plan = Plan(most, ALPHA, target=(DISTANCE, TARGET))
    for look in looks(most):
        if decide(scores[:look], thresholds, DISTANCE, TARGET, plan, 0.0) is not None:
            return look
    return most


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certified.tightness", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs of every method (default: 200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results files")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f"wanted --runs ≥ 1, got {args.runs}")
    computed, needed = list(values()), list(samples(args.runs))
    write_table(args.out / "tightness.csv", computed)
    write_table(args.out / "samples.csv", needed)
    for value in computed:
        print(f"{value.quantity:48} {value.computed:.6f}  reference {value.reference:.4f}")
    for line in needed:
        print(f"{line.method:28} {line.median:7.0f} samples (p20 {line.p20:.0f}, p80 {line.p80:.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
