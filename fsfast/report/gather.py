"""Gather everything that the demo shows from an open encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from fsfast.certificates.certificate import Certificate
from fsfast.encoder import SmoothedEncoder
from fsfast.images.grid import GridImage
from fsfast.machine import processor
from fsfast.report.data import Attack, Case, DemoResult, Seen, Subject, Variant
from fsfast.report.speed import measure
from fsfast.runtime.features import SmoothedFeatures, anchor_of
from fsfast.runtime.pipeline import STEPS

# The numbers of samples whose latency is measured, and how often.
LATENCY_N0 = (1, 2, 4, 8, 16)
LATENCY_RUNS = 7


def gather(
    encoder: SmoothedEncoder,
    subjects: Sequence[Subject],
    n: int = 1000,
    alpha: float = 1e-3,
    *,
    compare: bool = True,
    started: float | None = None,
) -> DemoResult:
    """Encode, certify, attack and time everything that the demo shows.

    Args:
        encoder: an open encoder.
        subjects: at least one.
        n: certification samples per certificate.
        alpha: probability that a certificate is wrong, each.
        compare: also certify the first image with fewer stages, and measure latencies.
        started: `time.perf_counter()` before the engine was opened; None: now.

    Raises:
        ValueError: n or alpha are off.
    """
    from fsfast._version import __version__

    started = time.perf_counter() if started is None else started
    images = [subject.image for subject in subjects]
    encoder.encode(images[0])
    first_feature = time.perf_counter() - started
    seconds: dict[str, float] = {}
    served = encoder.encode(images)
    again = encoder.encode(images, seeds=served.seeds, seconds=seconds)
    start = time.perf_counter()
    certificates = encoder.certify(images, n, alpha, served=served)
    rate = n * len(images) / (time.perf_counter() - start)
    assert isinstance(certificates, list)
    cases = _cases(encoder, subjects, served, certificates)
    variants = _variants(encoder, images[0], served[0], certificates[0]) if compare else ()
    samples = served.n0 * len(images)
    return DemoResult(
        manifest=encoder.manifest,
        profile=encoder.profile,
        threads=encoder.threads,
        classes=encoder.classes.names if encoder.classes else None,
        cases=cases,
        variants=variants,
        served=served,
        n=n,
        alpha=alpha,
        bit_equal=bool(np.array_equal(again.features, served.features)),
        verification=encoder.verify(certificates[0], images[0]),
        first_feature_s=first_feature,
        samples_per_s=rate,
        # Both come from the same measurement where there are two places that show them.
        steps_ms=variants[-1].steps_ms
        if variants
        else {step: seconds[step] / samples * 1e3 for step in STEPS},
        processor=processor(),
        version=__version__,
        date=datetime.now().astimezone(),
    )


def _cases(
    encoder: SmoothedEncoder,
    subjects: Sequence[Subject],
    served: SmoothedFeatures,
    certificates: Sequence[Certificate],
) -> tuple[Case, ...]:
    clean = encoder.clean([subject.image for subject in subjects])
    seen = _seen(encoder, clean, served)
    cosines = (anchor_of(clean) * anchor_of(served.unit)).sum(-1)
    attacks = _attacks(encoder, subjects)
    return tuple(
        Case(
            name=subject.name,
            image=subject.image,
            label=subject.label,
            sample=encoder.sample(subject.image, int(served.seeds[i])),
            cosine_to_clean=float(cosines[i].mean()),
            seen=seen[i],
            certificate=certificates[i],
            attack=attacks.get(i),
        )
        for i, subject in enumerate(subjects)
    )


def _seen(encoder: SmoothedEncoder, clean: np.ndarray, served: SmoothedFeatures) -> list[Seen | None]:
    if (head := encoder.classes) is None:
        return [None] * len(served)
    pairs = zip(head.scores(clean), head.scores(served.unit), strict=True)
    return [Seen(head.names, plain, smoothed) for plain, smoothed in pairs]


def _attacks(encoder: SmoothedEncoder, subjects: Sequence[Subject]) -> dict[int, Attack]:
    """Return the attack of every subject that has one, by its position."""
    attacked = {i: subject.attacked for i, subject in enumerate(subjects) if subject.attacked is not None}
    if not attacked:
        return {}
    images = list(attacked.values())
    seen = _seen(encoder, encoder.clean(images), encoder.encode(images))
    attacks = {}
    for (i, image), scores in zip(attacked.items(), seen, strict=True):
        change = image.pixels.astype(np.int64) - subjects[i].image.pixels
        attacks[i] = Attack(
            image=image,
            target=subjects[i].target,
            linf=int(np.abs(change).max()),
            l2=float(np.sqrt((change**2).sum())) / 255,
            seen=scores,
        )
    return attacks


def _variants(
    encoder: SmoothedEncoder, image: GridImage, served: SmoothedFeatures, whole: Certificate
) -> tuple[Variant, ...]:
    """Certify one image with every choice of the encoder's stages.

    Every variant serves with the same noise, so that their directions differ by nothing else; noise for
    certification is fresh. `served` and `whole` are what all of the encoder's stages gave.
    """
    found = []
    profile = encoder.profile
    for title, stages in _choices(encoder):
        if stages == profile.stages:
            found.append(Variant(title, stages, whole, _latency(encoder)))
            continue
        with SmoothedEncoder(
            encoder.engine_path,
            backend=profile.backend,
            precision=profile.precision,
            threads=encoder.threads,
            micro_batch=profile.micro_batch,
            graph_threads=profile.graph_threads,
            stages=stages,
        ) as variant:
            direction = variant.encode(image, served.n0, seeds=served.seeds)
            certificate = variant.certify(image, whole.n, whole.alpha, served=direction)
            assert not isinstance(certificate, list)
            found.append(Variant(title, stages, certificate, _latency(variant)))
    return tuple(found)


def _choices(encoder: SmoothedEncoder) -> list[tuple[str, tuple[str, ...]]]:
    """Return (title, stages) of every choice among the encoder's stages that the engine can run."""
    choices = {
        "encoder alone": ("encoder",),
        "+ mapper": ("encoder", "mapper"),
        "+ purifier": ("purifier", "encoder"),
        "+ both": ("purifier", "encoder", "mapper"),
    }
    manifest = encoder.manifest
    same_size = manifest.grid.size == manifest.encoder_size
    return [
        (title, stages)
        for title, stages in choices.items()
        if set(stages) <= set(encoder.profile.stages) and (same_size or "purifier" in stages)
    ]


def _latency(encoder: SmoothedEncoder) -> tuple[dict[str, Any], ...]:
    return tuple(measure(encoder, n0, LATENCY_RUNS) for n0 in LATENCY_N0)
