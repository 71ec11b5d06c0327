"""Lower confidence bounds that hold at every number of samples at once: sampling may stop when it looks good.

A wealth W_n(m) that is a martingale at m = μ exceeds 1/α at *any* n with probability ≤ α (Ville's inequality), so
the bounds of all n hold together, and so does the largest of them.
"""

from __future__ import annotations

import math

import numpy as np

from fsfast.bounds.means import (
    BETS,
    MeanMethod,
    bound_rows,
    checked_log_inverse,
    checked_scores,
    log_of_sum,
    solve_wealth,
)
from fsfast.bounds.proportions import checked_counts

_U = 2.0**-53


class SequentialMean:
    """The running maximum of `mean_lower_bound` over a growing number of scores.

    Scores are kept, 8 bytes each: the mixture's wealth is a function of m that no fixed number of statistics
    determines, and a certificate stores its scores anyway. A fixed grid of m would need flat memory, but lose
    tightness. An update costs one or two evaluations of the wealth, because the search starts at the bound so
    far: 12·n/8 logarithms each, a small part of what the n network evaluations cost.

    Args:
        alpha: the probability of error, in (0, 1), for each leading index separately.
        method: "mixture" or "product"; `hoeffding` holds only for an n that was fixed beforehand.
        shape: of the leading axes: images, tokens; () for one sequence.

    Attributes:
        n: number of scores so far.
        bound: [*shape] float64, the lower bound so far; it never falls.

    Raises:
        ValueError: alpha outside (0, 1), unknown method, or one that is not anytime-valid.
    """

    def __init__(self, alpha: float, method: MeanMethod = "mixture", shape: tuple[int, ...] = ()) -> None:
        if method not in ("mixture", "product"):
            raise ValueError(
                f"wanted an anytime-valid method, mixture or product; got {method!r}; "
                "mean_lower_bound has the methods for an n that was fixed beforehand"
            )
        self._log_inverse_alpha = checked_log_inverse(alpha)
        self._method = method
        self._shape = shape
        self._scores = np.empty((math.prod(shape), 256))
        self._best = np.zeros(math.prod(shape))
        self.n = 0

    @property
    def bound(self) -> np.ndarray:
        """The lower bound so far, [*shape]."""
        return self._best.reshape(self._shape).copy()

    def update(self, chunk: np.ndarray) -> float | np.ndarray:
        """Add scores and return the lower bound.

        Args:
            chunk: [*shape, m] real, each in [0, 1], m ≥ 1.

        Returns:
            A float for shape (), else a float64 array of that shape.

        Raises:
            ValueError: scores outside [0, 1], no scores, or another shape; nothing is added then.
        """
        values = checked_scores(chunk)
        if values.shape[:-1] != self._shape:
            raise ValueError(
                f"wanted scores [*{self._shape}, m], got shape {values.shape}; keep the leading axes"
            )
        self._append(values.reshape(len(self._best), values.shape[-1]))
        rows = self._scores[:, : self.n]
        found = bound_rows(rows, self._log_inverse_alpha, self._method, self._best)
        self._best = np.maximum(self._best, found)
        return float(self._best[0]) if not self._shape else self.bound

    def _append(self, rows: np.ndarray) -> None:
        wanted = self.n + rows.shape[1]
        if wanted > self._scores.shape[1]:
            # Twice as much each time, so that copying costs O(n) in all.
            grown = np.empty((len(rows), max(wanted, 2 * self._scores.shape[1])))
            grown[:, : self.n] = self._scores[:, : self.n]
            self._scores = grown
        self._scores[:, self.n : wanted] = rows
        self.n = wanted


class SequentialProportion:
    """The running maximum of the `mixture` bound for scores that are 0 or 1, in memory that does not depend on n.

    The wealth of a bet c is (1 − c + c/m)^S (1 − c)^(n − S): two counts determine it.

    Args:
        alpha: the probability of error, in (0, 1), for each index separately.
        shape: of the proportions: images, thresholds; () for one.

    Attributes:
        n: number of samples so far.
        bound: [*shape] float64, the lower bound so far; it never falls.

    Raises:
        ValueError: alpha outside (0, 1).
    """

    def __init__(self, alpha: float, shape: tuple[int, ...] = ()) -> None:
        self._log_inverse_alpha = checked_log_inverse(alpha)
        self._shape = shape
        self._successes = np.zeros(math.prod(shape), dtype=np.int64)
        self._best = np.zeros(math.prod(shape))
        self.n = 0

    @property
    def bound(self) -> np.ndarray:
        """The lower bound so far, [*shape]."""
        return self._best.reshape(self._shape).copy()

    def update(self, successes: int | np.ndarray, n: int) -> float | np.ndarray:
        """Add n samples and return the lower bound.

        Args:
            successes: [*shape] integers, how many of the n new samples were successes.
            n: number of new samples, ≥ 1.

        Returns:
            A float for shape (), else a float64 array of that shape.

        Raises:
            ValueError: not counts, successes outside 0…n, or another shape; nothing is added then.
        """
        new, total = checked_counts(successes, n)
        if new.shape != self._shape or total.shape:
            raise ValueError(
                f"wanted successes of shape {self._shape} and one n, got {new.shape}, {total.shape}"
            )
        self._successes += new.ravel()
        self.n += int(total)
        found = solve_wealth(self._log_wealth, self._log_inverse_alpha, self.n, self._best)
        self._best = np.maximum(self._best, found)
        return float(self._best[0]) if not self._shape else self.bound

    def _log_wealth(self, m: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a lower bound of ln W(m) and about −d ln W/d ln m, as `solve_wealth` wants them."""
        successes = self._successes[rows].astype(np.float64)
        failures = self.n - successes
        logs = np.empty((len(BETS), len(rows)))
        slopes = np.empty_like(logs)
        for k, (c, weight) in enumerate(BETS):
            # 1 − m and the quotient are good to a few roundings, so log1p is, relatively.
            gain = successes * np.log1p(c * ((1.0 - m) / m))
            loss = failures * math.log1p(-c) if c < 1.0 else np.where(failures > 0.0, -np.inf, 0.0)
            size = np.where(np.isinf(loss), 0.0, gain - loss)
            logs[k] = gain + loss - 32.0 * _U * size + math.log(weight)
            slopes[k] = successes * c / (c + (1.0 - c) * m)
        return log_of_sum(logs, slopes)
