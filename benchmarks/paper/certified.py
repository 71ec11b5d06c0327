"""Tables 2 and 5: certificates of every image with every choice of networks, and the paper's number beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.measuring.rows import Rows
from benchmarks.paper import quoted
from benchmarks.paper.engines import Spec
from benchmarks.paper.study import Study
from benchmarks.paper.work import Advance, Part
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.evidence import PILOT
from fsfast.commands.journal import Journal
from fsfast.encoder import SmoothedEncoder

# M on a GPU.
MICRO_BATCH = 16
_COLUMNS = (
    "sigma",
    "networks",
    "image",
    "grid_sha256",
    "function_id",
    "n",
    "mean_score",
    "score_lower_bound",
)


class Certified:
    """A row for every image, σ and choice of networks; the certificates themselves stand in files of lines.

    Args:
        study: which engines and images.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        radii = (f"cosine_{radius:g}" for radius in quoted.radii())
        self.images = Rows(
            study.request.out / "images.csv", (*_COLUMNS, *radii, "radius"), ("sigma", "networks", "image")
        )

    def parts(self) -> Iterator[Part]:
        """Yield the work, a part for every σ and choice of networks."""
        for spec, engine in self._study.engines.items():
            if spec.purifier in (None, self._study.main):
                for stages in _choices(tuple(engine.manifest.stages)):
                    yield self._part(spec, stages)

    def _part(self, spec: Spec, stages: tuple[str, ...]) -> Part:
        study, networks = self._study, "+".join(stages)
        each = (PILOT + study.request.n) * study.flops(spec.purifier, stages)
        left = [i for i in study.images if (spec.sigma, networks, study.name(i)) not in self.images]
        done = len(study.images) - len(left)
        work = partial(self._certify, spec, stages, left, each)
        return Part(f"σ = {spec.sigma:g}, {networks}", len(study.images) * each, done * each, work)

    def _certify(
        self, spec: Spec, stages: tuple[str, ...], left: Sequence[int], each: float, advance: Advance
    ) -> None:
        networks, folder = "+".join(stages), self._study.request.out / "certificates"
        folder.mkdir(exist_ok=True)
        with self._study.open(spec, self._study.request.micro_batch or MICRO_BATCH, stages) as encoder:
            journal = Journal(
                str(folder / f"sigma-{spec.sigma:g}-{networks}.jsonl"),
                lambda there: {"engine or profile": (there.function_id, encoder.function_id)},
            )
            for i in left:
                certificate = self._certificate(encoder, journal, spec, i, each, advance)
                known = {"sigma": spec.sigma, "networks": networks, "image": self._study.name(i)}
                self.images.append(known | _row(certificate))

    def _certificate(
        self,
        encoder: SmoothedEncoder,
        journal: Journal,
        spec: Spec,
        position: int,
        each: float,
        advance: Advance,
    ) -> Certificate:
        """Return an image's certificate: the journal's, where a call ended between it and its row, or a new one."""
        image, request = self._study.image(position, spec), self._study.request
        if image.grid_sha256 in journal:
            advance(each)
            return journal[image.grid_sha256]
        certificate = encoder.certify(
            image, request.n, request.alpha, anchor="clean", progress=lambda share: advance(share * each)
        )
        assert isinstance(certificate, Certificate)
        journal.append(certificate, json.dumps(certificate.to_record(quoted.radii()), ensure_ascii=False))
        return certificate


def _choices(stages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the stages of the tables' rows: with the mapper and without."""
    without = tuple(stage for stage in stages if stage != "mapper")
    return [without, stages] if "mapper" in stages else [without]


def _row(certificate: Certificate) -> dict[str, object]:
    return {
        "grid_sha256": certificate.grid_sha256,
        "function_id": certificate.function_id,
        "n": certificate.n,
        "mean_score": certificate.mean_score,
        "score_lower_bound": certificate.score_lower_bound,
        **{f"cosine_{radius:g}": certificate.cosine(radius) for radius in quoted.radii()},
        "radius": certificate.radius(quoted.COSINE),
    }
