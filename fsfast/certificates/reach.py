"""What so many samples could certify at best, before or after they are drawn: how far, and how many it takes.

No confidence bound of a share or a mean from n samples exceeds a^{1/n}, a its part of α. An encoder whose features are
the anchor with that probability, and the opposite else, has no certified cosine where noise makes it a half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from fsfast.certificates.evidence import MOST_CAPS, Budget
from fsfast.certificates.wording import show_alpha, show_epsilon

# A file with more would not be read again.
MAX_SCORES = 10_000_000


@dataclass(frozen=True)
class Reach:
    """How far n samples reach, whatever their scores.

    Attributes:
        n: samples, or the most of them where sampling may stop.
        alpha: probability of error of the bounds.
        stopped: whether sampling may stop early.
        sigma: noise level in [0,1] pixel units.
        total_variation: η.
    """

    n: int
    alpha: float
    stopped: bool
    sigma: float
    total_variation: float

    @property
    def radius(self) -> float:
        """The ℓ2 radius ([0,1] units) from which on no scores certify anything; 0.0: they nowhere do."""
        return self._radius(0.0)

    def samples(self, epsilon: float, cosine: float = 0.0) -> int | None:
        """Return how many samples certify more than `cosine` at a radius if all scores are 1.

        Returns:
            Their number, or None where it is more than a certificate holds.
        """
        d = epsilon / self.sigma + float(ndtri(_share_for(cosine)))
        # 1 − p for the share p that is needed; small differences from 1 matter.
        missing = float(ndtr(-d)) - self.total_variation
        if missing <= 0.0:
            return None
        part = Budget.of(self.alpha, MOST_CAPS, self.stopped).cap
        # Where sampling may stop, `mixture` gives half of its wealth to α^{1/n}.
        needed = math.log(0.5 * part if self.stopped else part) / math.log1p(-missing)
        return math.floor(needed) + 1 if needed < MAX_SCORES else None

    def shortfall(self, epsilon: float, cosine: float = 0.0) -> str | None:
        """Return a sentence where no scores certify more than `cosine` at a radius; None where some do.

        Args:
            epsilon: ℓ2 radius in [0,1] units.
            cosine: in [0, 1); other than 0 only where sampling may stop.
        """
        if epsilon < self._radius(cosine):
            return None
        what = f"a cosine of {cosine:g}" if cosine else "anything"
        where = f" at ε = {show_epsilon(epsilon)}" if epsilon else ""
        needed = self.samples(epsilon, cosine)
        remedy = (
            f"{needed:,} could, if every score were 1; real ones take more"
            if needed is not None
            else f"that takes more than the {MAX_SCORES:,} samples of a certificate; ask for a smaller radius"
        )
        return (
            f"n = {self.n} samples cannot certify {what}{where} with α = {show_alpha(self.alpha)}, whatever their "
            f"scores: {remedy}"
        )

    def _radius(self, cosine: float) -> float:
        parts = (Budget.of(self.alpha, caps, self.stopped) for caps in (0, 1))
        most = max(max(part.mean, part.cap) for part in parts) ** (1.0 / self.n)
        return max(0.0, self.sigma * float(ndtri(most) - ndtri(_share_for(cosine))))


def _share_for(cosine: float) -> float:
    """Return the share of the anchor itself in a mean whose rest, however directed, leaves it this cosine."""
    return 1.0 / (1.0 + math.sqrt((1.0 - cosine) * (1.0 + cosine)))
