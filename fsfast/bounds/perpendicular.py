"""Upper confidence bound of how much of the smoothed feature is orthogonal to the anchor."""

from __future__ import annotations

import math

from fsfast.bounds.means import checked_log_inverse

# What bisection and rounding may cost is added to the result and to ln(1/α).
_ROUNDING = 1e-9

# Tilts η of the anytime-valid version, each with the same weight, and e^η − 1 − η.
_TILTS = tuple((eta, math.expm1(eta) - eta) for eta in (4.0 * 0.6**k for k in range(20)))


def perpendicular_upper_bound(
    norm_perp: float,
    c_lower: float,
    n: int,
    alpha: float,
    *,
    anytime: bool = False,
    total_variation: float = 0.0,
) -> float:
    """Return a number that is at least ‖P_⊥ f̂(x)‖ with probability ≥ 1 − alpha, given E⟨f, u⟩ ≥ c_lower.

    Let p = ‖P_⊥ f̂‖ and e = P_⊥ f̂/p, a fixed direction. The scalars Y_i = ⟨f_i, e⟩ have mean p, Y_i ≥ −1, and variance
    ≤ E(1 − ⟨f, u⟩²) − p² ≤ 1 − c² − p²; their sample mean is at most ‖P_⊥ m̂‖, because e is a unit vector
    orthogonal to u. So a p is ruled out where a scalar bound says that a sample mean of Y as small as ‖P_⊥ m̂‖ has
    probability ≤ alpha. No inequality for vectors is needed: ln(1/α) stands where one has ln(2/α), and the range is
    1 + p instead of 2.

    The probability adds up with that of c_lower being wrong; both may come from the same samples.

    Args:
        norm_perp: ‖P_⊥ m̂‖ ≥ 0, m̂ the mean of the n unit features. Rounding errors must have been added.
        c_lower: lower bound of E⟨f, u⟩, a cosine (2S_L − 1). Where it is not positive it is taken as 0.
        n: number of samples, ≥ 1; fixed beforehand unless `anytime`.
        alpha: the probability of error, in (0, 1).
        anytime: hold for all n at once (a mixture of exponential supermartingales and Ville's inequality
            instead of Hoeffding's bound), so that sampling may stop when it looks good. Costs about a fifth of
            the width.
        total_variation: η, distance of the sampled noise from the ideal one; features move by up to 2η.

    Returns:
        ρ in [0, 1]; never above √(1 − c²), which holds without any sample.

    Raises:
        ValueError: norm_perp negative or not finite, c_lower outside [−1, 1], n < 1, alpha outside (0, 1).

    Source: Hoeffding, JASA 58 (1963), Theorem 3 in the form of Kullback–Leibler divergence; anytime: Bennett's
    bound of the moment generating function, Ville (1939).
    """
    log_inverse_alpha = checked_log_inverse(alpha)
    if not 0.0 <= norm_perp < math.inf:
        raise ValueError(
            f"wanted norm_perp finite and not negative, got {norm_perp}; it is the norm of a mean"
        )
    if not -1.0 <= c_lower <= 1.0:
        raise ValueError(f"wanted c_lower in [−1, 1], got {c_lower}; a score S is the cosine 2S − 1")
    if n < 1:
        raise ValueError(f"wanted n ≥ 1 samples, got {n}; sample at least once")
    c = max(c_lower, 0.0)
    highest = math.sqrt((1.0 - c) * (1.0 + c))
    exponent = _mixture_exponent if anytime else _hoeffding_exponent
    enough = log_inverse_alpha + _ROUNDING + 1e-14 * n
    low, high = min(norm_perp, highest), highest
    # The evidence against p rises with p: what is ruled out stays ruled out above.
    while high - low > 1e-10:
        p = 0.5 * (low + high)
        variance = max(highest * highest - p * p, 0.0)
        if exponent(p - norm_perp, variance, 1.0 + p, n) > enough:
            high = p
        else:
            low = p
    return min(1.0, high + _ROUNDING + 2.0 * total_variation)


def _hoeffding_exponent(distance: float, variance: float, width: float, n: int) -> float:
    """n·KL(q‖q₀): a mean of n variables ≤ width with mean 0 and that variance reaches distance w.p. ≤ exp(−this)."""
    if distance <= 0.0:
        return 0.0
    if variance <= 0.0 or distance >= width:
        return math.inf
    total = width * width + variance
    q = (variance + width * distance) / total
    rest = (width * width - width * distance) / total
    first = q * math.log1p(width * distance / variance)
    return n * (first + rest * math.log1p(-distance / width))


def _mixture_exponent(distance: float, variance: float, width: float, n: int) -> float:
    """ln of the mean over η of exp(n(η·distance/b − (e^η − 1 − η)·variance/b²)), b = width."""
    if distance <= 0.0:
        return 0.0
    gain, loss = distance / width, variance / (width * width)
    logs = [n * (eta * gain - rest * loss) for eta, rest in _TILTS]
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))
