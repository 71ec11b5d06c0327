"""What the demo shows: images, samples, classes, certificates, attacks, costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.replay import Verification
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Profile
from fsfast.images.grid import GridImage
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.pipeline import Sample

# The radii in tables, in units of σ.
RADII = (0.25, 0.5, 1.0)
# The cosine whose certified radius is stated.
COSINE = 0.5


@dataclass(frozen=True, eq=False)
class Subject:
    """An image to show.

    Attributes:
        name: for tables.
        image: on the engine's grid.
        label: the class that is shown, where it is known.
        attacked: the image after an attack on the plain encoder, where there is one.
        target: the class that the attack aims at.
    """

    name: str
    image: GridImage
    label: str | None = None
    attacked: GridImage | None = None
    target: str | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """Class scores of one image.

    Attributes:
        names: of the K classes.
        plain: [K] float64, of the encoder alone without noise.
        smoothed: [K] float64, of the direction that was served.
    """

    names: tuple[str, ...]
    plain: np.ndarray
    smoothed: np.ndarray

    @property
    def plain_class(self) -> str:
        """The class that the encoder alone sees."""
        return self.names[int(self.plain.argmax())]

    @property
    def smoothed_class(self) -> str:
        """The class that the smoothed encoder sees."""
        return self.names[int(self.smoothed.argmax())]


@dataclass(frozen=True, eq=False)
class Attack:
    """An attacked image, and what became of it.

    Attributes:
        image: on the grid.
        target: the class aimed at.
        linf: largest change of a pixel's channel, in levels of 255.
        l2: ℓ2 size of the change, in [0,1] pixel units.
        seen: its class scores; None for an engine without classes.
    """

    image: GridImage
    target: str | None
    linf: int
    l2: float
    seen: Seen | None


@dataclass(frozen=True, eq=False)
class Case:
    """One image, and all that was found about it.

    Attributes:
        name, image, label: as in `Subject`.
        sample: the first of the serving samples.
        cosine_to_clean: of the served direction to the encoder alone without noise; no guarantee.
        seen: class scores; None for an engine without classes.
        certificate: about the served direction.
        attack: where the subject has one.
    """

    name: str
    image: GridImage
    label: str | None
    sample: Sample
    cosine_to_clean: float
    seen: Seen | None
    certificate: Certificate
    attack: Attack | None


@dataclass(frozen=True, eq=False)
class Variant:
    """One choice of the engine's stages, on the first image.

    Attributes:
        title: for legends.
        stages: in their order.
        certificate: about the direction that this variant served.
        latency: what `fsfast.commands.bench.measure` says for each number of samples in `LATENCY_N0`.
    """

    title: str
    stages: tuple[str, ...]
    certificate: Certificate
    latency: tuple[dict[str, Any], ...]

    @property
    def steps_ms(self) -> dict[str, float]:
        """Milliseconds per sample of each step, on one thread."""
        return dict(self.latency[-1]["steps_ms"])


@dataclass(frozen=True, eq=False)
class DemoResult:
    """All that the demo shows.

    Attributes:
        manifest, profile, threads: the engine and how it ran.
        classes: names of the engine's classes, or None.
        cases: one per image, at least one.
        variants: the choices of stages, the one of `profile` last; empty when they were not asked for.
        served: features of all images.
        n, alpha: of every certificate.
        bit_equal: whether the same seeds gave the same features again.
        verification: of the first certificate.
        first_feature_s: seconds from opening the engine to the first feature.
        samples_per_s: during certification.
        steps_ms: milliseconds per sample of each step, on one thread.
        processor, version, date: where, with which fsfast, and when.
    """

    manifest: Manifest
    profile: Profile
    threads: int
    classes: tuple[str, ...] | None
    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    served: SmoothedFeatures
    n: int
    alpha: float
    bit_equal: bool
    verification: Verification
    first_feature_s: float
    samples_per_s: float
    steps_ms: dict[str, float]
    processor: str
    version: str
    date: datetime

    @property
    def attacked(self) -> tuple[Case, ...]:
        """The cases that have an attack."""
        return tuple(case for case in self.cases if case.attack is not None)

    @property
    def radii(self) -> list[float]:
        """The radii in tables, in [0,1] pixel units."""
        return [factor * self.manifest.sigma for factor in RADII]
