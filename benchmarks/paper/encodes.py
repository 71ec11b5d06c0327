"""Table S.8: the latency of an encode, and how alike the features of attacked images stay, against n0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.measuring import harness
from benchmarks.measuring.rows import Rows
from benchmarks.paper.engines import Spec
from benchmarks.paper.study import Study
from benchmarks.paper.work import Advance, Part
from fsfast.encoder import SmoothedEncoder
from fsfast.runtime.features import anchor_of

_LATENCY = ("purifier", "stages", "n0", "micro_batch", "p20_ms", "p50_ms", "p80_ms", "memory_mb")
_SIMILARITY = ("purifier", "n0", "image", "grid_sha256", "fcs", "to_plain")


class Encodes:
    """The rows of Table S.8.

    Args:
        study: which engines and images.
    """

    def __init__(self, study: Study) -> None:
        self._study, folder = study, study.request.out
        where = study.circumstances()
        self.latency = Rows(folder / "latency.csv", (*_LATENCY, *where), ("purifier", "n0"))
        self.similarity = Rows(folder / "similarity.csv", _SIMILARITY, ("purifier", "n0", "image"))

    def parts(self) -> Iterator[Part]:
        """Yield the work, a part for every purifier and n0."""
        for spec in self._study.purified:
            for n0 in self._study.request.numbers:
                yield self._part(_Point(spec, n0))

    def _part(self, point: _Point) -> Part:
        study = self._study
        flops = point.n0 * study.flops(point.purifier, tuple(study.engines[point.spec].manifest.stages))
        left = [i for i in study.images if (point.purifier, point.n0, study.name(i)) not in self.similarity]
        untimed = (point.purifier, point.n0) not in self.latency
        timing = (study.request.runs + 1) * flops
        # The clean image and the attacked one.
        each = 2 * flops
        total = timing + len(study.images) * each
        done = total - untimed * timing - len(left) * each
        title = f"{point.purifier}, n0 = {point.n0}"
        return Part(title, total, done, partial(self._measure, point, left, untimed, timing, each))

    def _measure(
        self, point: _Point, left: Sequence[int], untimed: bool, timing: float, each: float, advance: Advance
    ) -> None:
        with self._study.open(point.spec, point.n0) as encoder:
            if untimed:
                self.latency.append(self._timed(encoder, point))
                advance(timing)
            for i in left:
                self.similarity.append(self._alike(encoder, point, i))
                advance(each)

    def _timed(self, encoder: SmoothedEncoder, point: _Point) -> dict[str, object]:
        """Return the row of one image: from the host, features back to it."""
        study, on_gpu = self._study, self._study.request.on_gpu
        call = partial(encoder.encode, study.image(0, point.spec), point.n0, progress=False)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        timing = harness.measure(call, runs=study.request.runs, seconds=0.0)
        return {
            "purifier": point.purifier,
            "stages": "+".join(encoder.profile.stages),
            "n0": point.n0,
            "micro_batch": encoder.profile.micro_batch,
            "p20_ms": round(1e3 * timing.p20, 3),
            "p50_ms": round(1e3 * timing.p50, 3),
            "p80_ms": round(1e3 * timing.p80, 3),
            "memory_mb": round(torch.cuda.max_memory_allocated() / 1e6) if on_gpu else None,
            **study.circumstances(),
        }

    def _alike(self, encoder: SmoothedEncoder, point: _Point, position: int) -> dict[str, object]:
        image = self._study.image(position, point.spec)
        served = encoder.encode(image, point.n0, progress=False).unit[0]
        attacked = encoder.encode(self._study.attacked(position), point.n0, progress=False).unit[0]
        return {
            "purifier": point.purifier,
            "n0": point.n0,
            "image": self._study.name(position),
            "grid_sha256": image.grid_sha256,
            "fcs": _cosine(attacked, served),
            "to_plain": _cosine(served, np.atleast_2d(encoder.clean(image)[0])),
        }


@dataclass(frozen=True)
class _Point:
    """An engine with a purifier, and a number of samples."""

    spec: Spec
    n0: int

    @property
    def purifier(self) -> str:
        assert self.spec.purifier is not None
        return self.spec.purifier


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean over tokens of the cosines of [L, D] features."""
    return float((anchor_of(a) * anchor_of(b)).sum(-1).mean())
