"""What a certificate states: its fields, and every bound that follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fsfast.bounds import MeanMethod, mean_lower_bound
from fsfast.bounds.cosine import (
    CosineMethod,
    cosine_curve,
    cosine_lower_bound,
    inner_product_lower_bound,
    radius,
)
from fsfast.bounds.served import served_cosine_lower_bound
from fsfast.bounds.tokens import token_share_below
from fsfast.certificates.evidence import SCORE_UNIT, Budget, Constants, constants
from fsfast.certificates.reach import Reach
from fsfast.engine.profile import Profile
from fsfast.errors import CertificateError, brief
from fsfast.images.grid import RESIZE
from fsfast.runtime.seeds import SeedOrigin

if TYPE_CHECKING:
    from fsfast.runtime.features import SmoothedFeatures


@dataclass(frozen=True)
class Anchor:
    """The fixed direction u that a certificate is about.

    Attributes:
        kind: "served" (mean of the unit features of the n0 serving samples) or "clean" (vanilla encoder).
        sha256: hash of its [L, D] float32 directions.
        n0, seed, seed_origin: the serving samples; None for "clean".
        key_id: of the secret that gave their seed; None where there was none, or nobody noted it.
    """

    kind: str
    sha256: str
    n0: int | None = None
    seed: int | None = None
    seed_origin: SeedOrigin | None = None
    key_id: str | None = None


@dataclass(frozen=True)
class Stopping:
    """A certificate whose sampling stopped as soon as it could.

    Attributes:
        epsilon, cosine: what was asked for: this cosine at this ℓ2 radius ([0,1] units).
        n_max: samples at most.
        reason: "reached", "out of reach" (no number of samples would have been likely to do) or "n_max".
    """

    epsilon: float
    cosine: float
    n_max: int
    reason: str


@dataclass(frozen=True, eq=False)
class Statement:
    """With probability ≥ 1 − alpha over the certification noise: for every image x' on the grid within ℓ2
    distance ε of x, Cos(f̂(x'), u) ≥ `cosine(ε)`. f̂ is the smoothed encoder, u the anchor.

    It speaks about the image on the engine's grid, not about the file before resizing. Where nothing is certified a
    single bound is None, which nothing can be compared with, an entry of an array is NaN, and a radius is 0.0.

    Attributes:
        scores: [n] float64, multiples of 2⁻²⁰, rounded down.
        thresholds: of the score, chosen from the pilot samples.
        perp_norm: length across the anchor of the samples' mean unit feature; None where sampling could stop.
        stopping: how sampling stopped, or None where n was fixed.
        token_scores: [n, L] float64 like scores, or None: the scores of every token on its own.
        direction: [L, D] float32, the anchor, or None for a certificate from a file, which has only its hash.
        total_variation: η, subtracted from the constants.
        n, alpha, method: samples, error probability, confidence bound of the mean.
        seed, seed_origin: certification noise; "replay" marks a seed chosen by the caller, who could have
            searched for a lucky one.
        key_id: of the secret that gave the seed; None where there was none, or nobody noted it.
        image_name, grid_sha256, source: which image, and how it came onto the grid.
    """

    engine: str
    engine_digest: str
    random_weights: bool
    function_id: str
    profile: Profile
    image_name: str | None
    grid_sha256: str
    source: dict[str, Any]
    grid: tuple[int, int]
    sigma: float
    total_variation: float
    anchor: Anchor
    alpha: float
    method: MeanMethod
    seed: int
    seed_origin: SeedOrigin
    scores: np.ndarray
    thresholds: tuple[float, ...] = ()
    perp_norm: float | None = None
    stopping: Stopping | None = None
    token_scores: np.ndarray | None = None
    direction: np.ndarray | None = None
    versions: dict[str, str] = field(default_factory=dict)
    key_id: str | None = None

    def __post_init__(self) -> None:
        # Bounds are computed from the scores once; who could change them afterwards would be misled.
        self.scores.setflags(write=False)
        if self.token_scores is not None:
            self.token_scores.setflags(write=False)

    @property
    def resize(self) -> int:
        """How its image came onto the grid, as `fsfast.images.grid.to_grid_image` takes it; 1 where nothing is said.

        Raises:
            CertificateError: in a way that this version does not know.
        """
        resize = self.source.get("resize", 1)
        if type(resize) is not int or not 1 <= resize <= RESIZE:
            raise CertificateError(
                f"the certificate's image came onto the grid by resize {resize!r}, this fsfast knows 1 to {RESIZE}; "
                "upgrade fsfast"
            )
        return resize

    @property
    def n(self) -> int:
        """Number of certification samples."""
        return len(self.scores)

    @property
    def _own_alpha(self) -> float:
        return self.alpha if self.token_scores is None else 0.5 * self.alpha

    @property
    def budget(self) -> Budget:
        """How α is spent; half of it belongs to the tokens where they have certificates of their own."""
        return Budget.of(self._own_alpha, len(self.thresholds), self.stopping is not None)

    @cached_property
    def constants(self) -> Constants:
        """What is known about the encoder at x, with probability ≥ 1 − alpha; all bounds follow from it."""
        # E. Constants
        return constants(
            self.scores, self.thresholds, self.perp_norm, self.budget, self.total_variation, self.method
        )

    @property
    def reach(self) -> Reach:
        """How far so many samples reach at best, whatever their scores; `reach.shortfall(ε)` says it in words."""
        return Reach(self.n, self._own_alpha, self.stopping is not None, self.sigma, self.total_variation)

    @property
    def score_lower_bound(self) -> float:
        """S_L: the mean score is at least this."""
        return self.constants.mean

    @property
    def mean_score(self) -> float:
        """The sample mean of the scores (no confidence)."""
        return float(self.scores.mean())

    def cosine(self, epsilon: float, method: CosineMethod = "joint") -> float | None:
        """Return the lower bound of the cosine at ℓ2 radius `epsilon` ([0,1] units), or None: no certificate.

        `method="paper"` gives the paper's plug-in number instead: it has no confidence bound and is **not a
        certificate**.

        Raises:
            TypeError: something else than one number; `curve` takes many radii.
            ValueError: epsilon negative or not finite, unknown method.
        """
        # F. Cosine
        return cosine_lower_bound(self._distance(epsilon), **self._known(method), method=method)

    def curve(self, epsilons: Sequence[float], method: CosineMethod = "joint") -> np.ndarray:
        """Return `cosine` at many radii at once, [R] float64; NaN where nothing is certified.

        Raises:
            TypeError: something else than [R] numbers; `cosine` takes a single one.
            ValueError: as `cosine`.
        """
        if np.ndim(epsilons) != 1:
            raise TypeError(f"wanted radii ε [R], got {_brief(epsilons)}; `cosine` takes a single one")
        d = np.array([self._distance(epsilon) for epsilon in epsilons])
        return cosine_curve(d, **self._known(method), method=method)

    def radius(self, cosine: float, method: CosineMethod = "joint") -> float:
        """Return the largest ℓ2 radius ([0,1] pixel units) certified for `cosine`, 0.0 if there is none.

        Raises:
            TypeError: something else than one number.
            ValueError: cosine outside (0, 1], unknown method.
        """
        cosine = _number(cosine, "a cosine in (0, 1]", "ask for one after the other")
        return radius(cosine, sigma=self.sigma, **self._known(method), method=method)

    def inner_product(self, epsilon: float) -> float | None:
        """Return the lower bound of ⟨f̂(x'), u⟩ at ℓ2 radius `epsilon`, or None where it is not positive."""
        known = self.constants
        return inner_product_lower_bound(self._distance(epsilon), mean=known.mean, caps=known.caps)

    def served_bound(self, epsilon: float, confidence: float = 0.999) -> float | None:
        """Return a lower bound of the cosine between what would be *served* at x' and the anchor, or None.

        `cosine` speaks about the expectation f̂(x'); served is the mean of n0 samples (of the unit features, all
        tokens together, before its tokens are normalised). With probability ≥ `confidence` over the serving noise at
        x', for each x' that was fixed before that noise, the bound holds where the certificate does.

        Args:
            epsilon: ℓ2 radius in [0,1] units.
            confidence: in (0, 1).

        Raises:
            ValueError: the anchor is a clean one, which has no n0; epsilon or confidence out of range.
        """
        if self.anchor.n0 is None:
            raise ValueError(
                "wanted a certificate of a served direction; a clean anchor has no number of samples"
            )
        return served_cosine_lower_bound(
            self._distance(epsilon),
            self.anchor.n0,
            caps=self.constants.caps,
            confidence=confidence,
            total_variation=self.total_variation,
        )

    def tokens_below(self, epsilon: float, cosine: float) -> float:
        """Return an upper bound of the share of tokens whose cosine to the anchor's is below `cosine` at radius ε.

        Tokens whose anchor is zero have no cosine and are not counted.

        Args:
            epsilon: ℓ2 radius in [0,1] units.
            cosine: in [0, 1).
        """
        return token_share_below(self.cosine(epsilon), self.inner_product(epsilon), cosine)

    def token_cosine(self, epsilon: float) -> np.ndarray:
        """Return the lower bound of every token's cosine at radius ε, [L] float64, NaN where there is none.

        All of them hold together, with the certificate. Needs `certify(…, per_token=True)`.

        Raises:
            ValueError: tokens were not certified, or epsilon out of range.
        """
        d = np.array([self._distance(epsilon)])
        return np.array([cosine_curve(d, mean=mean, method="sharp")[0] for mean in self._token_means])

    @cached_property
    def _token_means(self) -> np.ndarray:
        if self.token_scores is None:
            raise ValueError("wanted a certificate with tokens; certify(…, per_token=True) makes one")
        alpha = 0.5 * self.alpha / self.token_scores.shape[1]
        bounds = np.asarray(mean_lower_bound(self.token_scores.T, alpha, self.method))
        return np.maximum(np.nextafter(bounds - self.total_variation, -1.0), 0.0)

    def direction_of(self, served: SmoothedFeatures | None = None) -> np.ndarray:
        """Return the anchor, [L, D] float32 ([D] when pooled).

        Args:
            served: what `encode` returned for this image alone; only needed for a certificate from a file.

        Raises:
            ValueError: the directions are missing, or not those of the certificate.
        """
        if served is None:
            if self.direction is None:
                raise ValueError(
                    "a certificate from a file has no directions; pass served=, what `encode` returned"
                )
            return self.direction
        unit = served.unit[0]
        if len(served.unit) != 1 or anchor_hash(unit) != self.anchor.sha256:
            raise ValueError("wanted `served` with this certificate's direction alone, got another one")
        return unit

    def _distance(self, epsilon: float) -> float:
        epsilon = _number(epsilon, "a radius ε", "`curve` takes many radii")
        if not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"wanted a radius ε ≥ 0 in [0,1] pixel units, got {epsilon}")
        return epsilon / self.sigma

    def _known(self, method: str) -> dict[str, Any]:
        if method == "paper":
            return {"mean": self.mean_score}
        return {"mean": self.constants.mean, "caps": self.constants.caps, "perp": self.constants.perp}


def _number(value: Any, wanted: str, remedy: str) -> float:
    """Return a number, of Python or NumPy, as a float; raises TypeError."""
    if np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
        raise TypeError(f"wanted {wanted} as one number, got {_brief(value)}; {remedy}")
    return float(value)


def _brief(value: Any) -> str:
    return f"{type(value).__name__} {brief(repr(value))}"


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Round scores down to multiples of 2⁻²⁰: what a certificate stores and its bounds are computed from."""
    return np.floor(scores / SCORE_UNIT) * SCORE_UNIT


def anchor_hash(unit: np.ndarray) -> str:
    """Return the hash of [L, D] float32 directions."""
    return hashlib.sha256(np.ascontiguousarray(unit, "<f4").tobytes()).hexdigest()
