"""The table of `fsfast certify`: one row per certificate as it is finished, and at the end what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fsfast.certificates.wording import show_bound, show_confidence, show_epsilon, show_radius
from fsfast.report.growing_table import Column, GrowingTable
from fsfast.report.text import RANDOM_WEIGHTS, only_these_classes
from fsfast.runtime.progress import beside_bars

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.prediction import Prediction
    from fsfast.engine.classes import ClassHead

# Of a certificate from a file whose direction could not be made again.
_UNKNOWN = "done before"


@dataclass(frozen=True)
class _Row:
    name: str
    certificate: Certificate
    prediction: Prediction | None


class CertificateTable:
    """Prints the header before the first certificate, and a row for each.

    Args:
        names: of all images that may come.
        radii: ℓ2 radii at which bounds are shown.
        classes: the engine's, or None.
        tokens: whether tokens have certificates of their own.
    """

    def __init__(
        self, names: Sequence[str], radii: Sequence[float], classes: ClassHead | None, *, tokens: bool
    ) -> None:
        self._classes, self._tokens, self._radii = classes, tokens, radii
        columns = [
            *_columns(names, radii, tokens=tokens),
            *(() if classes is None else _class_columns(classes)),
        ]
        self._table = GrowingTable([column for column, _ in columns])
        self._entries = [entry for _, entry in columns]
        self._first: Certificate | None = None
        self._short: list[str] = []

    def add(self, name: str, certificate: Certificate) -> None:
        """Print the row of a certificate."""
        with beside_bars():
            if self._first is None:
                self._first = certificate
                print(self._table.header())
            prediction = None
            if self._classes is not None and certificate.direction is not None:
                prediction = certificate.predict(self._classes)
            row = _Row(name, certificate, prediction)
            print(self._table.row([entry(row) for entry in self._entries]), flush=True)
        if (stopping := certificate.stopping) is not None and stopping.reason != "reached":
            what = f"cosine {stopping.cosine:g} at ε = {stopping.epsilon:g} not certified"
            self._short.append(f"{name}: {what} with n = {certificate.n} ({stopping.reason})")

    def explain(self) -> None:
        """Print what the rows mean, where there are any."""
        first = self._first
        if first is None:
            return
        print(
            f"\nWith probability ≥ {show_confidence(first.alpha)} per image, for every image x' on the "
            f"{first.grid[0]}×{first.grid[1]} grid within ℓ2 distance ε of x ([0,1] units):\n"
            "the smoothed feature of x' has at least this cosine to the certified direction. "
            f"σ = {first.sigma:g}."
        )
        if self._tokens:
            print(
                "Each token's cosine is bounded on its own, too: the smallest and the largest bound are shown."
            )
        if self._classes is not None:
            print("Within the last column's radius that feature also keeps its class.")
        for line in (*self._short, *_out_of_reach(first, self._radii)):
            print(line)
        if first.random_weights:
            print(RANDOM_WEIGHTS)
        elif self._classes is not None:
            print(only_these_classes(self._classes.names))


_Columns = list[tuple[Column, Callable[[_Row], str]]]
# A bound or a radius: 0.123.
_WIDTH = 5


def _columns(names: Sequence[str], radii: Sequence[float], *, tokens: bool) -> _Columns:
    columns: _Columns = [
        (Column.of_texts("image", names), lambda row: row.name),
        (Column("n", 6), lambda row: str(row.certificate.n)),
    ]
    for radius in radii:
        columns.append(
            (
                Column(f"cos ≥ at ε={show_epsilon(radius)}", _WIDTH),
                lambda row, r=radius: show_bound(row.certificate.cosine(r)),  # type: ignore[misc]
            )
        )
    columns.append(
        (Column("radius for cos ≥ 0.5", _WIDTH), lambda row: show_radius(row.certificate.radius(0.5)))
    )
    if tokens:
        columns.append(
            (
                Column(f"tokens: cos ≥ at ε={show_epsilon(radii[0])}", 2 * _WIDTH + 3),
                lambda row: _token_bounds(row.certificate, radii[0]),
            )
        )
    return columns


def _class_columns(classes: ClassHead) -> _Columns:
    return [
        (
            Column.of_texts("class", [*classes.names, _UNKNOWN]),
            lambda row: row.prediction.name if row.prediction else _UNKNOWN,
        ),
        (
            Column("its radius", _WIDTH),
            lambda row: show_radius(row.prediction.radius) if row.prediction else "—",
        ),
    ]


def _token_bounds(certificate: Certificate, radius: float) -> str:
    """Return the smallest and the largest bound of a token."""
    bounds = certificate.token_cosine(radius)
    return " … ".join(show_bound(float(bound)) for bound in (bounds.min(), np.fmax.reduce(bounds)))


def _out_of_reach(certificate: Certificate, radii: Sequence[float]) -> list[str]:
    """Return why some radii are beyond any image; that all of them are is said before sampling."""
    reach = certificate.reach
    if certificate.stopping is not None or not reach.radius:
        return []
    return [line for radius in radii if (line := reach.shortfall(radius))]
