"""The certificate as its user has it: a statement that predicts, and that is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fsfast.certificates.display import plot, to_html
from fsfast.certificates.prediction import Prediction, predict
from fsfast.certificates.statement import Statement
from fsfast.certificates.wording import show_alpha, show_bound, show_epsilon
from fsfast.certificates.writing import to_json, to_record
from fsfast.engine.classes import ClassHead
from fsfast.errors import printable
from fsfast.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fsfast.runtime.features import SmoothedFeatures


@dataclass(frozen=True, eq=False)
class Certificate(Statement):
    """With probability ≥ 1 − alpha over the certification noise: for every image x' on the grid within ℓ2
    distance ε of x, Cos(f̂(x'), u) ≥ `cosine(ε)`. f̂ is the smoothed encoder, u the anchor.

    What `certify` returns and `load_certificate` reads: a `Statement`, with its fields and bounds, that also predicts
    classes, and that is written to files.
    """

    def predict(self, classes: ClassHead | np.ndarray, served: SmoothedFeatures | None = None) -> Prediction:
        """Return the class of the anchor, and the radius within which the smoothed feature keeps it.

        Args:
            classes: an engine's classes, or directions [K, D] such as text features of a zero-shot head; rows of a
                linear classifier as ClassHead(names, rows, "linear") of fsfast.engine.classes.
            served: what `encode` returned for this image alone; only needed for a certificate from a file, which
                has no directions of its own.

        Raises:
            ValueError: the directions are missing, or not those of the certificate.
        """
        return predict(self.cosine, self.sigma, classes, self.direction_of(served))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the certified cosine against the radius, from 0 to where nothing is certified.

        Args:
            ax: axes of matplotlib to draw on; None: new ones.

        Returns:
            The axes; the line has a label for a legend.

        Raises:
            BackendUnavailable: matplotlib is missing.
            TypeError: ax is something else.
        """
        return plot(self, ax)

    def save(self, path: str | os.PathLike[str], epsilons: Sequence[float] | None = None) -> None:
        """Write the certificate as JSON, whole or not at all; `epsilons` as in `to_record`."""
        write_whole(path, to_json(self, epsilons))

    def to_record(self, epsilons: Sequence[float] | None = None) -> dict[str, Any]:
        """Return the certificate as a JSON document; `schemas/certificate.schema.json` describes it.

        Args:
            epsilons: ℓ2 radii ([0,1] units) at which it states its bounds; None: some around σ.
        """
        return to_record(self, epsilons)

    def __repr__(self) -> str:
        name = printable(self.image_name or "image")
        radii = [0.5 * self.sigma, self.sigma]
        bounds = ", ".join(f"{show_bound(self.cosine(r))} at ε = {show_epsilon(r)}" for r in radii)
        return (
            f"Certificate({name}: cosine ≥ {bounds}; n = {self.n}, α = {show_alpha(self.alpha)}"
            f"{'; random weights' if self.random_weights else ''})"
        )

    def _repr_html_(self) -> str:
        return to_html(self)
