"""The nearest neighbour of a smoothed query in an index, and how far an attack on the query cannot change it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fsfast.bounds.angles import safe_angle
from fsfast.certificates.certificate import Certificate
from fsfast.runtime.features import SmoothedFeatures, anchor_of

# An index in float32 orders scores by sums of D products: each is off by at most half of this per product.
_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Neighbour:
    """A certified nearest neighbour.

    Attributes:
        index: which of the candidates.
        cosine: to the query's served direction.
        angle: radians; every direction within less than this of the served one has this nearest neighbour.
        radius: ℓ2 radius ([0,1] units) within which every image's smoothed feature has it, with the certificate's
            confidence; 0.0 if there is none.
    """

    index: int
    cosine: float
    angle: float
    radius: float


def certified_neighbour(
    certificate: Certificate, served: SmoothedFeatures, candidates: np.ndarray, *, complete: bool
) -> Neighbour:
    """Return the nearest of an index's vectors by cosine, and the radius within which an attack cannot change it.

    Args:
        certificate: of the query, by `certify(image, served=served)`.
        served: what `encode` returned for the query alone; one vector per image.
        candidates: [K, D] K ≥ 2 vectors of the index, the nearest ones; their lengths do not matter.
        complete: whether they are the whole index. If not, they are its K nearest by an exact search for
            `served.unit`: an approximate search may have missed the runner-up that an attack makes the first.

    Raises:
        ValueError: features of tokens, another certificate's direction, other shapes, vectors that are zero or not
            finite.
    """
    direction = np.atleast_2d(certificate.direction_of(served))
    if len(direction) != 1:
        raise ValueError(
            f"wanted pooled features, one vector per image as an index holds them, got {len(direction)} tokens; "
            "export the engine with --output pooled"
        )
    index, cosine, angle = kept_within(anchor_of(direction)[0], candidates, complete=complete)
    # A certified cosine keeps the neighbour where it is above that of the angle, which is rounded here.
    radius = certificate.radius(min(1.0, math.cos(angle) + 2e-15)) if angle > 0.0 else 0.0
    return Neighbour(index, cosine, angle, radius)


def kept_within(direction: np.ndarray, candidates: np.ndarray, *, complete: bool) -> tuple[int, float, float]:
    """Return the nearest candidate of a unit vector, its cosine, and the angle within which it stays the nearest.

    Where the candidates are the whole index the angle is exact: that to the closest of the hyperplanes that lie between
    the nearest vector and every other one (`safe_angle`). What an exact search for K candidates left out is no closer
    than the last of them: with θ_1 ≤ … ≤ θ_K the angles to the query, the triangle inequality keeps the first ahead of
    all that is at θ_K or beyond while the query turns by less than (θ_K − θ_1)/2.

    Args:
        direction: [D], of norm 1.
        candidates, complete: as in `certified_neighbour`.

    Returns:
        The index, the cosine, and the angle in radians, rounded down; 0.0 where the nearest is not unique.

    Raises:
        ValueError: other shapes, vectors that are zero or not finite.
    """
    vectors = np.asarray(candidates, np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != len(direction) or len(vectors) < 2:
        raise ValueError(
            f"wanted candidates [K, {len(direction)}] with K ≥ 2, got shape {list(vectors.shape)}"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise ValueError("wanted finite candidates that are not zero; a row may be NaN or empty")
    vectors = vectors / norms
    cosines = vectors @ direction
    nearest = int(np.argmax(cosines))
    angle = safe_angle(cosines, vectors)
    if not complete:
        first, last = cosines[nearest], cosines.min() + (len(direction) + 8) * _ROUNDING
        angle = min(angle, 0.5 * (_angle(last) - _angle(first)) - 1e-15)
    return nearest, float(cosines[nearest]), max(0.0, angle)


def _angle(cosine: float) -> float:
    return math.acos(min(1.0, max(-1.0, cosine)))
