"""Certificates of the held-out photographs by the engines themselves, about both anchors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from benchmarks.measuring.harness import machine
from benchmarks.measuring.rows import Rows
from benchmarks.photo.pictures import Photographs
from fsfast.certificates.anchors import AnchorKind
from fsfast.certificates.certificate import Certificate
from fsfast.encoder import SmoothedEncoder
from fsfast.engine.classes import load_classes
from fsfast.engine.engine import Engine
from train.evaluate import RADII

SAMPLES, ALPHA = 1000, 1e-3
COLUMNS = (
    *(
        "sigma",
        "networks",
        "anchor",
        "image",
        "n",
        "mean_score",
        "score_lower_bound",
        "radius",
    ),
    *(f"cosine_{epsilon:g}" for epsilon in RADII),
    *("class", "class_radius", "device"),
)


def measure(photographs: Photographs, engines: Sequence[Engine], path: Path, images: int) -> None:
    """Write a row for every engine, anchor and photograph; those that stand there are left as they are.

    Args:
        photographs: held out.
        engines: of each σ.
        path: of the table.
        images: photographs, the first ones.
    """
    rows = Rows(path, COLUMNS, ("sigma", "networks", "anchor", "image"))
    for engine in engines:
        networks, classes = "+".join(engine.manifest.stages), load_classes(engine)
        assert classes is not None
        with SmoothedEncoder(engine.path) as encoder:
            label = f"certificates, σ = {encoder.sigma:g}"
            for picture in tqdm(photographs.held_out[:images], desc=label, mininterval=5.0):
                # Both anchors of a photograph: an unfinished table compares them, too.
                for anchor in get_args(AnchorKind):
                    known = {
                        "sigma": encoder.sigma,
                        "networks": networks,
                        "anchor": anchor,
                        "image": picture.name,
                    }
                    if tuple(known.values()) in rows:
                        continue
                    image = photographs.image(picture, engine)
                    certificate = encoder.certify(image, SAMPLES, ALPHA, anchor=anchor, progress=False)
                    prediction = certificate.predict(classes)
                    rows.append(
                        {
                            **known,
                            **_bounds(certificate),
                            "class": prediction.name,
                            "class_radius": prediction.radius,
                            "device": machine(),
                        }
                    )


def _bounds(certificate: Certificate) -> dict[str, object]:
    return {
        "n": certificate.n,
        "mean_score": certificate.mean_score,
        "score_lower_bound": certificate.score_lower_bound,
        "radius": certificate.radius(0.5),
        **{f"cosine_{epsilon:g}": certificate.cosine(epsilon) for epsilon in RADII},
    }
