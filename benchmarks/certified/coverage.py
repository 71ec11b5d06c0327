"""How often the confidence bounds fail, at a fixed n and at the luckiest of many looks.

`python -m benchmarks.certified.coverage` runs every bound on scores that are hard for it and writes one row per case to
benchmarks/results/certificates/coverage.csv. `share` is the share of runs that failed; a sound bound stays below
`limit` with probability 1 − 1e-6, and alpha is what it promises.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom

from benchmarks.measuring.files import write_table
from fsfast.bounds import (
    MeanMethod,
    SequentialMean,
    SequentialProportion,
    mean_lower_bound,
    perpendicular_upper_bound,
    proportion_lower_bound,
)

RESULTS = Path(__file__).parents[1] / "results" / "certificates"
ALPHAS = (0.05, 0.01, 0.001)
COUNTS = (20, 200, 2000)
PROBABILITIES = (0.5, 0.9, 0.99, 0.999)
METHODS: tuple[MeanMethod, ...] = ("mixture", "product", "hoeffding")

# Features across the anchor: mean inner product c, |E Y|, values and probabilities of Y with |Y| ≤ √(1 − z_u²).
# "signs" has all the variance that c allows; in "reversals" a rare sample points straight away from the mean.
_SIDE = (1.0 - 0.9**2) ** 0.5
ACROSS = {
    "signs": (0.9, 0.2 * _SIDE, (_SIDE, -_SIDE), (0.6, 0.4)),
    "reversals": (0.98 * 0.99**0.5, 0.078, (0.1, -1.0), (0.98, 0.02)),
}

# Runs that are drawn at a time: 32 MB of scores.
_BLOCK = 2000


@dataclass(frozen=True)
class Row:
    """One case: `violations` of `runs` bounds were on the wrong side of the truth."""

    distribution: str
    bound: str
    n: int
    alpha: float
    stopping: str
    runs: int
    violations: int
    share: float
    limit: float


def row(distribution: str, bound: str, n: int, alpha: float, stopping: str, failed: np.ndarray) -> Row:
    """Make a row from [runs] bool: which runs failed."""
    runs, violations = len(failed), int(failed.sum())
    return Row(
        distribution,
        bound,
        n,
        alpha,
        stopping,
        runs,
        violations,
        violations / runs,
        limit(runs, alpha) / runs,
    )


def limit(runs: int, alpha: float) -> int:
    """Return the number of failures that a sound bound exceeds with probability below 1e-6."""
    return int(binom.ppf(1.0 - 1e-6, runs, alpha))


def beta(rng: np.random.Generator, mean: float, sd: float, size: tuple[int, ...]) -> np.ndarray:
    """Draw Beta scores with a mean and a standard deviation."""
    concentration = mean * (1.0 - mean) / sd**2 - 1.0
    return rng.beta(mean * concentration, (1.0 - mean) * concentration, size)


def draw(name: str, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Return scores and their exact mean.

    Args:
        name: one of DISTRIBUTIONS.
        rng: source.
        size: shape of the scores.
    """
    if name == "constant":
        return np.full(size, 0.9), 0.9
    if name == "bernoulli, often 1":
        return (rng.random(size) < 0.95).astype(float), 0.95
    if name == "bernoulli, rarely 1":
        return (rng.random(size) < 0.02).astype(float), 0.02
    if name == "beta":
        return beta(rng, 0.97, 0.01, size), 0.97
    if name == "heavy tail":
        # 1 − X = U^20: most draws are next to 1, a few are near 0; E X = 20/21.
        return 1.0 - rng.random(size) ** 20, 20.0 / 21.0
    if name == "catastrophes":
        # .999 except once in 200 draws, when 0.
        return np.where(rng.random(size) < 0.005, 0.0, 0.999), 0.999 * 0.995
    raise ValueError(f"wanted one of {', '.join(DISTRIBUTIONS)}; got {name!r}")


DISTRIBUTIONS = (
    "constant",
    "bernoulli, often 1",
    "bernoulli, rarely 1",
    "beta",
    "heavy tail",
    "catastrophes",
)


def looks(n: int) -> list[int]:
    """Return numbers of samples at which a sequential bound is looked at: all up to 8, then about ten more."""
    return sorted({*range(1, min(n, 8) + 1), *(int(n ** (k / 14)) for k in range(1, 15)), n})


def means(runs: int, counts: Sequence[int], alphas: Sequence[float], seed: int = 0) -> Iterator[Row]:
    """Bounds of a mean."""
    for name in DISTRIBUTIONS:
        for n in counts:
            fixed: dict[tuple[str, float], list[np.ndarray]] = {}
            lucky: dict[tuple[str, float], list[np.ndarray]] = {}
            rng = np.random.default_rng([seed, n])
            for first in range(0, runs, _BLOCK):
                scores, mean = draw(name, rng, (min(_BLOCK, runs - first), n))
                for alpha in alphas:
                    for method in METHODS:
                        failed = np.asarray(mean_lower_bound(scores, alpha, method)) > mean
                        fixed.setdefault((method, alpha), []).append(failed)
                    for method in METHODS[:2]:
                        failed = luckiest_mean(scores, alpha, method) > mean
                        lucky.setdefault((method, alpha), []).append(failed)
            for stopping, cases in (("fixed n", fixed), ("luckiest look", lucky)):
                for (method, alpha), failures in cases.items():
                    yield row(name, f"mean, {method}", n, alpha, stopping, np.concatenate(failures))


def luckiest_mean(scores: np.ndarray, alpha: float, method: MeanMethod) -> np.ndarray:
    """Return the largest bound over all looks, [runs]."""
    bound = SequentialMean(alpha, method, (len(scores),))
    done = 0
    for look in looks(scores.shape[1]):
        bound.update(scores[:, done:look])
        done = look
    return bound.bound


def proportions(runs: int, counts: Sequence[int], alphas: Sequence[float], seed: int = 1) -> Iterator[Row]:
    """Bounds of a probability."""
    for p in PROBABILITIES:
        name = f"bernoulli {p:g}"
        for n in counts:
            steps = np.diff([0, *looks(n)])
            hits = np.random.default_rng([seed, n]).binomial(steps, p, (runs, len(steps)))
            for alpha in alphas:
                fixed = np.asarray(proportion_lower_bound(hits.sum(axis=1), n, alpha))
                yield row(name, "proportion, Clopper–Pearson", n, alpha, "fixed n", fixed > p)
                bound = SequentialProportion(alpha, (runs,))
                for step, new in zip(steps, hits.T, strict=True):
                    bound.update(new, int(step))
                yield row(name, "proportion, mixture", n, alpha, "luckiest look", bound.bound > p)


def perpendicular(runs: int, counts: Sequence[int], alphas: Sequence[float], seed: int = 2) -> Iterator[Row]:
    """Bounds of the norm across the anchor, for features that vary in one direction across it."""
    for name, (c, norm, values, chances) in ACROSS.items():
        for n in counts:
            at = np.array(looks(n))
            rng = np.random.default_rng([seed, n])
            norms = np.empty((runs, len(at)))
            for first in range(0, runs, _BLOCK):
                y = rng.choice(values, (min(_BLOCK, runs - first), n), p=chances)
                norms[first : first + len(y)] = np.abs(np.cumsum(y, axis=1)[:, at - 1] / at)
            for alpha in alphas:
                # The bound rises with the measured norm: it is too low exactly below a critical one.
                failed = norms[:, -1] < critical_norm(norm, c, n, alpha, anytime=False)
                yield row(name, "perpendicular", n, alpha, "fixed n", failed)
                critical = [critical_norm(norm, c, int(look), alpha, anytime=True) for look in at]
                yield row(name, "perpendicular", n, alpha, "luckiest look", (norms < critical).any(axis=1))


def critical_norm(norm: float, c: float, n: int, alpha: float, *, anytime: bool) -> float:
    """Return the measured norm below which the bound falls short of the true one; 0.0 if there is none."""
    low, high = 0.0, norm
    for _ in range(25):
        middle = 0.5 * (low + high)
        if perpendicular_upper_bound(middle, c, n, alpha, anytime=anytime) < norm:
            low = middle
        else:
            high = middle
    return low


def main(argv: list[str] | None = None) -> int:
    """Run all cases, write the results file, and fail if a bound failed more often than chance allows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certified.coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="runs of every case (default: 20000)")
    parser.add_argument("--out", type=Path, default=RESULTS / "coverage.csv", help="results file")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f"wanted --runs ≥ 1, got {args.runs}")
    rows = [r for cases in (means, proportions, perpendicular) for r in cases(args.runs, COUNTS, ALPHAS)]
    write_table(args.out, rows)
    wrong = [r for r in rows if r.share > r.limit]
    for r in wrong:
        print(
            f"{r.bound} on {r.distribution}, n = {r.n}, α = {r.alpha:g}, {r.stopping}: {r.share:.4f} failed"
        )
    print(f"{len(rows)} cases of {args.runs} runs, {len(wrong)} beyond chance → {args.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
