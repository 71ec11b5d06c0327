"""What the certificates of a data set say together: how many images are certified, against the radius."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fsfast.certificates.certificate import Certificate
from fsfast.engine.classes import ClassHead
from fsfast.errors import CertificateError
from fsfast.runtime.features import SmoothedFeatures


@dataclass(frozen=True)
class Source:
    """A certificate of a data set.

    Attributes:
        place: where it stands, for messages.
        certificate: about one image.
        served: the features that were handed out for it; None: not known, so that it has no class.
    """

    place: str
    certificate: Certificate
    served: SmoothedFeatures | None = None


@dataclass(frozen=True, eq=False)
class DataSet:
    """The certified radii of N images, one certificate each.

    Each certificate is wrong with probability ≤ alpha on its own: of N, at most alpha·N are expected to be wrong.

    Attributes:
        cosine: what is certified up to the radii.
        radii: [N] float64, ascending: the certified ℓ2 radius for `cosine` ([0,1] units), 0 where there is none.
        class_radii: the same for the class of each image, or None where classes are not known.
        alpha, sigma, engine, random_weights: of all certificates.
    """

    cosine: float
    radii: np.ndarray
    class_radii: np.ndarray | None
    alpha: float
    sigma: float
    engine: str
    random_weights: bool

    def __len__(self) -> int:
        return len(self.radii)


def certified(radii: np.ndarray, epsilon: float) -> int:
    """Return how many of the certified radii reach ℓ2 radius `epsilon`; images without a certificate never do."""
    return int(np.count_nonzero((radii > 0) & (radii >= epsilon)))


def median(radii: np.ndarray) -> float:
    """Return the median of radii in ascending order; of two in the middle the smaller, which claims less."""
    return float(radii[(len(radii) - 1) // 2])


def data_set(sources: Iterable[Source], cosine: float, classes: ClassHead | None = None) -> DataSet:
    """Bring the certificates of a data set together; one is looked at after the other.

    Args:
        sources: at least one, about different images, of one function, alpha and kind of anchor.
        cosine: in (0, 1].
        classes: the engine's; every source has its features then.

    Raises:
        CertificateError: there are none, one is of another setting, or two are about one image.
        ValueError: cosine out of range, or `served` has another direction than the certificate.
    """
    radii: list[float] = []
    class_radii: list[float] = []
    first: Source | None = None
    places: dict[str, str] = {}
    for source in sources:
        certificate = source.certificate
        first = first or source
        _refuse_others(source, first)
        if (other := places.setdefault(certificate.grid_sha256, source.place)) != source.place:
            raise CertificateError(
                f"{source.place} is about the same image as {other}; leave one of them out"
            )
        radii.append(certificate.radius(cosine))
        if classes is not None:
            class_radii.append(certificate.predict(classes, source.served).radius)
    if first is None:
        raise CertificateError("wanted at least one certificate, got none")
    return DataSet(
        cosine,
        np.sort(radii),
        None if classes is None else np.sort(class_radii),
        first.certificate.alpha,
        first.certificate.sigma,
        first.certificate.engine,
        first.certificate.random_weights,
    )


def _refuse_others(source: Source, first: Source) -> None:
    one, other = first.certificate, source.certificate
    pairs: Sequence[tuple[str, object, object]] = [
        ("engine or profile", one.function_id, other.function_id),
        ("alpha", one.alpha, other.alpha),
        ("anchor", one.anchor.kind, other.anchor.kind),
    ]
    for name, wanted, found in pairs:
        if wanted != found:
            raise CertificateError(
                f"{source.place} has another {name} ({found}) than {first.place} ({wanted}); summarise them apart"
            )
