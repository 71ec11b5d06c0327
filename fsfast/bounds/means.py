"""Lower confidence bounds for the mean of scores in [0, 1].

X_1, …, X_n are independent and identically distributed with mean μ. Every bound B here has
P(B ≤ μ) ≥ 1 − α for every distribution on [0, 1] and every n, with no approximation.
Pure mathematics: no images, no kernels, no back ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

MeanMethod = Literal["mixture", "product", "hoeffding"]

# One rounding to nearest multiplies by 1 + δ, |δ| ≤ _U.
_U = 2.0**-53

# Smaller bounds are returned as 0: there wealth may leave the range of float64, and results may be subnormal.
_SMALLEST = 2.0**-100

# (c_k, w_k) of the mixture. Any bets in [0, 1] and weights of total 1 are sound.
BETS = ((1.0, 0.5), *((0.7**k, 1 / 22) for k in range(1, 12)))

# Scores that are worked on at a time: small enough for the cache.
_BLOCK = 1 << 16


def mean_lower_bound(scores: np.ndarray, alpha: float, method: MeanMethod = "mixture") -> float | np.ndarray:
    """Return a number that is at most the mean of the scores' distribution with probability ≥ 1 − alpha.

    `mixture` is the smallest m for which the wealth W(m) = Σ_k w_k ∏_i (1 + c_k (X_i/m − 1)) is below
    1/α. W(μ) has expectation 1, so Markov's inequality gives P(W(μ) ≥ 1/α) ≤ α. `product` is the single
    bet c = 1: (α ∏ X_i)^(1/n). Both are anytime-valid (Ville's inequality): they hold at every n at once, so
    sampling may stop when the bound looks good and the running maximum may be used. `hoeffding`, mean −
    √(ln(1/α)/2n), holds only for an n that was fixed beforehand; it is here for comparison.

    Floating-point errors are bounded and subtracted, so the result never exceeds the exact bound (tested in
    rational arithmetic) and falls short of it by less than 1e-9, for n ≤ 10^5.

    Args:
        scores: [..., n] real, each in [0, 1], n ≥ 1; 0 and 1 are allowed. Taken as exact numbers.
        alpha: the probability of error, in (0, 1); for each leading index separately.
        method: "mixture", "product" or "hoeffding".

    Returns:
        A float for scores [n], else a float64 array [...]; in [0, 1).

    Raises:
        ValueError: no scores, a score that is NaN or outside [0, 1], alpha outside (0, 1), unknown method.

    Source: docs/certificates.md §3; wealth as in Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", JRSS B 2024.
    """
    if method not in get_args(MeanMethod):
        raise ValueError(f"wanted method to be one of {', '.join(get_args(MeanMethod))}; got {method!r}")
    log_inverse_alpha = checked_log_inverse(alpha)
    values = checked_scores(scores)
    result = bound_rows(values.reshape(-1, values.shape[-1]), log_inverse_alpha, method)
    return float(result[0]) if values.ndim == 1 else result.reshape(values.shape[:-1])


def bound_rows(
    rows: np.ndarray, log_inverse_alpha: float, method: MeanMethod, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the bounds of checked scores, a block that fits the cache at a time.

    Args:
        rows: [R, n] float64.
        log_inverse_alpha: from `checked_log_inverse`.
        method: as in `mean_lower_bound`.
        start: [R] where the search of `mixture` starts; it does not look below and may return 0 instead.
    """
    start = np.zeros(len(rows)) if start is None else start
    size = max(1, _BLOCK // rows.shape[1])
    result = np.empty(len(rows))
    for first in range(0, len(rows), size):
        block = slice(first, first + size)
        result[block] = _BOUNDS[method](rows[block], log_inverse_alpha, start[block])
    return result


def checked_log_inverse(alpha: float) -> float:
    """Return ln(1/α), rounded up; raises ValueError for an α outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"wanted alpha, the probability of error, in (0, 1); got {alpha}; 0.001 is usual")
    return -math.log(alpha) * (1.0 + 8.0 * _U)


def checked_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores as float64 [..., n], n ≥ 1; raises ValueError for anything that is not in [0, 1]."""
    values = np.asarray(scores)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"wanted real scores, got dtype {values.dtype}; convert them to float64")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"wanted scores [..., n] with n ≥ 1, got shape {values.shape}; sample at least once")
    values = values.astype(np.float64, copy=False)
    wrong = ~((values >= 0.0) & (values <= 1.0))
    if wrong.any():
        raise ValueError(
            f"wanted scores in [0, 1], got {int(wrong.sum())} outside or NaN, the first {values[wrong][0]}; "
            "a cosine c becomes a score by (1 + c)/2"
        )
    return values


def _hoeffding(scores: np.ndarray, log_inverse_alpha: float, _: np.ndarray) -> np.ndarray:
    """X̄ − √(ln(1/α)/2n). The mean of n terms of one sign has relative error ≤ n·_U in any order."""
    n = scores.shape[1]
    width = math.sqrt(log_inverse_alpha / (2.0 * n))
    error = _U * (n + 16.0 + 8.0 * width)
    return np.maximum(scores.sum(axis=1) / n - width - error, 0.0)


def _product(scores: np.ndarray, log_inverse_alpha: float, _: np.ndarray) -> np.ndarray:
    """(α ∏ X_i)^(1/n), through logarithms; the exponent's error becomes a relative error of the result."""
    n = scores.shape[1]
    total, error = _sum_of_logs(scores)
    exponent = (total - log_inverse_alpha) / n
    slack = np.where(np.isneginf(exponent), 0.0, error / n + _U * (64.0 + 16.0 * np.abs(exponent)))
    result = np.exp(exponent - slack)
    return np.where(result < _SMALLEST, 0.0, result)


def _mixture(scores: np.ndarray, log_inverse_alpha: float, start: np.ndarray) -> np.ndarray:
    """The smallest m with W(m) < 1/α, from below."""
    total, total_error = _sum_of_logs(scores)

    def log_wealth(m: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _log_wealth(scores[rows], m, total[rows], total_error[rows])

    return solve_wealth(log_wealth, log_inverse_alpha, scores.shape[1], start)


def solve_wealth(
    log_wealth: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    log_inverse_alpha: float,
    n: int,
    start: np.ndarray,
) -> np.ndarray:
    """Return about the smallest m ≥ start with W(m) < 1/α, from below, by Newton's method in s = ln m; [R].

    ln W is convex and falls in s (each ln(1 − c + cX/m) does, and a log of a sum of exponentials keeps that),
    so Newton's steps from the left approach the solution from the left, and quadratically. Soundness does
    not rest on that: an m is returned only if a *lower* bound of the exact ln W(m) reached ln(1/α); since
    W does not increase in m, the exact solution is then ≥ m.

    Args:
        log_wealth: (m [Q], rows [Q]) → a lower bound of ln W(m) and about −d ln W/d ln m, [Q] each.
        log_inverse_alpha: ln(1/α).
        n: number of scores.
        start: [R] in [0, 1). Where W(start) < 1/α already, 0 is returned.
    """
    best = np.zeros(len(start))
    # Land inside [ln 1/α, ln 1/α + window]; the neighbouring floats of m differ by about n·2·_U in ln W.
    window = 1e-10 + 16.0 * _U * n
    active = np.arange(len(start))
    m = np.maximum(start, _SMALLEST)
    for _ in range(64):
        value, slope = log_wealth(m, active)
        gap = value - log_inverse_alpha
        reached = gap >= 0.0
        best[active[reached]] = np.maximum(best[active[reached]], m[reached])
        # A first point that fails has bound 0; later points fail only by rounding and step back.
        going = ((gap > window) | ~reached) & (best[active] > 0.0)
        if not going.any():
            break
        m = np.minimum(m[going] * np.exp((gap[going] - 0.5 * window) / slope[going]), 1.0)
        active = active[going]
    return best


def _log_wealth(
    scores: np.ndarray, m: np.ndarray, total: np.ndarray, total_error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a lower bound of ln W(m) and about −d ln W/d ln m, [R] each.

    Args:
        scores: [R, n] float64.
        m: [R] float64 in [2^-100, 1].
        total: [R] Σ ln X_i.
        total_error: [R] a bound of its error.
    """
    count, n = scores.shape
    logs = np.empty((len(BETS), count))
    slopes = np.empty((len(BETS), count))
    # c = 1: Σ ln X_i − n ln m, where ln, product and difference are each off by a few roundings.
    log_m = np.log(m)
    error = total_error + _U * n * 16.0 * np.abs(log_m)
    # A zero score makes this product exactly 0.
    logs[0] = np.where(np.isneginf(total), -np.inf, total - n * log_m - error) + math.log(BETS[0][1])
    slopes[0] = n
    for k, (c, weight) in enumerate(BETS[1:], start=1):
        # Four roundings of positive terms: relative error ≤ 4.01·_U in each factor.
        factors = (c / m)[:, None] * scores
        factors += 1.0 - c
        log_product, error = _sum_of_logs(factors)
        logs[k] = log_product - (error + 5.0 * _U * n) + math.log(weight)
        slopes[k] = n - (1.0 - c) * (1.0 / factors).sum(axis=1)
    return log_of_sum(logs, slopes)


def log_of_sum(logs: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a lower bound of ln Σ_k exp(logs), and the slopes' mean weighted by exp(logs), [R] each.

    Args:
        logs: [K, R] lower bounds of the logarithms; −inf is allowed where another one is finite.
        slopes: [K, R].
    """
    top = logs.max(axis=0)
    # The logarithm of a sum is as accurate as its terms, which have been lowered by their errors; 64 covers the
    # weights' and the sum's own roundings.
    shares = np.exp(logs - top)
    total = shares.sum(axis=0)
    slope = (shares * slopes).sum(axis=0) / total
    return top + np.log(total) - _U * (64.0 + 8.0 * np.abs(top)), slope


def _sum_of_logs(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ ln(factors) over the last axis and a bound of its error, [R] each.

    Eight factors are multiplied before a logarithm is taken. Factors are in [0, 1] or in [0.3, 2^101], so the
    product of eight cannot overflow; where it might underflow, logarithms are taken one by one. Errors, in
    units of _U: at most 1 per factor from the products; 8·|ln| for a logarithm good to 4 units in the last
    place (NumPy's vectorised ones promise that); and, for J summands in any order, J·Σ|ln|.
    """
    count, n = factors.shape
    width = -(-n // 8)
    padded = np.ones((count, 8 * width))
    padded[:, :n] = factors
    product = padded[:, : 4 * width] * padded[:, 4 * width :]
    product = product[:, : 2 * width] * product[:, 2 * width :]
    product = product[:, :width] * product[:, width:]
    if product.min() < 1e-290:
        product = padded
    with np.errstate(divide="ignore"):
        logs = np.log(product)
    size = np.abs(logs).sum(axis=1)
    # An infinite sum is a factor 0, and exact.
    error = np.where(np.isinf(size), 0.0, _U * (n + (logs.shape[1] + 16.0) * size))
    return logs.sum(axis=1), error


_BOUNDS: dict[str, Callable[[np.ndarray, float, np.ndarray], np.ndarray]] = {
    "mixture": _mixture,
    "product": _product,
    "hoeffding": _hoeffding,
}
