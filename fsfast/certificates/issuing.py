"""Issue certificates about images: their anchors, the seeds of their noise, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fsfast.certificates.anchors import AnchorKind, anchors
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.certification import Plan, Task, certify
from fsfast.images.grid import GridImage
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.function import Function
from fsfast.runtime.pipeline import Advance
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
        if request.seeds is None:
            given = source.certification(item, function.function_id, about.sha256, request.plan)
        tasks.append(Task(item, unit, about, *given))
    return certify(function, tasks, request.plan, advance)
