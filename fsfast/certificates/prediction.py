"""Certified predictions: the class of a smoothed feature, and how far it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fsfast.bounds.angles import prediction_radius
from fsfast.engine.classes import ClassHead

# No certificate reaches farther, in units of σ.
_CEILING = 8.3


@dataclass(frozen=True)
class Prediction:
    """A certified class.

    Attributes:
        index: of the class with the largest score: the nearest one, also of an image that shows none of them.
        name: its name, or its number as text.
        radius: ℓ2 radius ([0,1] units) within which every image's smoothed feature has this class, with the
            certificate's confidence; 0.0 if there is none. The class of f̂ is the k with the largest ⟨f̂(x'), w_k⟩ over
            all tokens; with L > 1 tokens this is not `ClassHead.scores`, which normalises every token.
        scores: [K], the anchor's `ClassHead.scores`: cosines where classes are directions.
    """

    index: int
    name: str
    radius: float
    scores: tuple[float, ...]


def predict(
    cosine: Callable[[float], float | None],
    sigma: float,
    classes: ClassHead | np.ndarray,
    direction: np.ndarray,
) -> Prediction:
    """Return the class of an anchor and its certified radius; see `Certificate.predict`.

    Args:
        cosine: the certified cosine at an ℓ2 radius.
        sigma: noise level in [0, 1] pixel units.
        classes: a head, or directions [K, D].
        direction: [L, D] float32, the anchor.

    Raises:
        ValueError: directions of another shape.
    """
    if not isinstance(classes, ClassHead):
        features = np.asarray(classes)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"wanted directions of classes as [K, D], got {list(features.shape)}")
        classes = ClassHead(tuple(map(str, range(len(features)))), features)
    tokens = direction.reshape(1, -1, direction.shape[-1])
    scores = classes.scores(tokens)[0]
    # A common factor moves no hyperplane, and roundings are counted in units of the longest row.
    longest = float(np.linalg.norm(classes.rows, axis=1).max()) or 1.0
    # Repeated over L tokens and divided by √L, rows keep their inner products.
    radius = prediction_radius(scores / longest, classes.rows / longest, cosine, ceiling=_CEILING * sigma)
    best = int(np.argmax(scores))
    return Prediction(best, classes.names[best], radius, tuple(map(float, scores)))
