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
        scores: [K], the anchor's cosines with the classes.
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
        classes: or directions [K, D].
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
    wide = classes.features.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    # Repeated over L tokens and divided by √L, directions keep their inner products.
    radius = prediction_radius(scores, unit @ unit.T, cosine, ceiling=_CEILING * sigma)
    best = int(np.argmax(scores))
    return Prediction(best, classes.names[best], radius, tuple(map(float, scores)))
