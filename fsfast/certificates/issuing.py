"""Issue certificates about images: their anchors, the seeds of their noise, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fsfast.certificates.anchors import AnchorKind, anchors
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.certification import Plan, Task, certify
from fsfast.certificates.statement import Anchor
from fsfast.errors import CertificateError
from fsfast.images.grid import GridImage
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.function import Function
from fsfast.runtime.many import Outcome, on_grid, seeds_of
from fsfast.runtime.pipeline import Advance
from fsfast.runtime.progress import Progress, count_of, counting_samples, progress_bar
from fsfast.runtime.seeds import Seeds


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of certificates.

    Attributes:
        plan: samples, probability of error, and when to stop.
        anchor, n0, seeds, served: as the arguments of `SmoothedEncoder.certify`.
    """

    plan: Plan
    anchor: AnchorKind = "served"
    n0: int | None = None
    seeds: Sequence[int] | np.ndarray | None = None
    served: SmoothedFeatures | None = None


def issue(
    function: Function,
    source: Seeds,
    items: Sequence[GridImage],
    request: Request,
    advance: Advance | None = None,
) -> list[Certificate]:
    """Return a certificate per image.

    Args:
        function: what is certified.
        source: where seeds come from that the request does not give.
        items: the images.
        request: what is asked.
        advance: called with the number of samples done.

    Raises:
        CertificateError: what was served belongs to other images or another function.
        TypeError, ValueError: the request contradicts itself, or more scores are asked than a certificate holds.
    """
    serving = source.serving(items, request.seeds)
    # A. Anchor
    directions = anchors(function, items, serving, request.anchor, request.n0, request.served)
    tasks = []
    for item, given, (unit, about) in zip(items, serving, directions, strict=True):
        # B. Seed
        key_id = None
        if request.seeds is None:
            given = source.certification(item, function.function_id, about.sha256, request.plan)
            key_id = source.key_id
        tasks.append(Task(item, unit, _signed(about, source, item), *given, key_id))
    return certify(function, tasks, request.plan, advance)


def _signed(anchor: Anchor, source: Seeds, item: GridImage) -> Anchor:
    """Return an anchor with the id of the secret where its seed is this secret's; others hand out anchors, too."""
    if anchor.seed is None or anchor.seed_origin != "secret":
        return anchor
    return replace(anchor, key_id=source.serving_key_id(item, anchor.seed))


def issue_each(
    function: Function,
    source: Seeds,
    images: Iterable[Any],
    request: Request,
    seeds: Iterator[int] | None = None,
    served: Mapping[str, SmoothedFeatures] | None = None,
    progress: Progress = None,
) -> Iterator[Outcome[Certificate]]:
    """Yield the certificate of every image, or why there is none.

    Args:
        function, source: as in `issue`.
        images, seeds, served, progress: as in `SmoothedEncoder.certify_iter`.
        request: what is asked of each; without seeds and `served`.

    Raises:
        TypeError, ValueError: as `issue`, or fewer seeds than images.
    """
    with progress_bar(progress, count_of(images), "certify") as advance:
        for outcome in on_grid(images, function.manifest.grid):
            item, error = outcome.result, outcome.error
            chosen = None if seeds is None else seeds_of([outcome], seeds)
            certificate = None
            with counting_samples(advance, 1, request.plan.n) as drawn:
                try:
                    if item is not None:
                        one = replace(request, seeds=chosen, served=_handed_out(served, item))
                        (certificate,) = issue(function, source, [item], one, drawn)
                except CertificateError as refused:
                    error = refused
            yield Outcome(outcome.position, outcome.name, certificate, error)


def _handed_out(served: Mapping[str, SmoothedFeatures] | None, item: GridImage) -> SmoothedFeatures | None:
    """Return what was served for an image, where that is to be certified."""
    if served is None:
        return None
    try:
        return served[item.grid_sha256]
    except KeyError:
        raise CertificateError("`served` has no features of this image; encode it first") from None
