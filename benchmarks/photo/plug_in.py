"""The paper's plug-in numbers of the held-out photographs, and whether smoothed answers still mean the picture.

They compare networks and certify nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring.harness import machine
from benchmarks.measuring.rows import Rows
from benchmarks.photo.pictures import Networks, Photographs
from train.evaluate import plug_in_radius
from train.images import levels_of
from train.photos.assembling import Picture

N0, SAMPLES = 4, 200
COLUMNS = (
    *("sigma", "networks", "image", "precision", "samples", "clean_class", "clean_probability", "score"),
    *(
        "score_served",
        "score_centred",
        "served_to_clean",
        "radius",
        "smoothed_class",
        "in_top_five",
        "votes",
        "psnr",
        "device",
    ),
)


def measure(photographs: Photographs, networks: Sequence[Networks], path: Path, images: int) -> None:
    """Write a row for every σ, choice of networks and photograph; those that stand there are left as they are.

    Args:
        photographs: held out.
        networks: of each σ.
        path: of the table.
        images: photographs, the first ones.
    """
    rows = Rows(path, COLUMNS, ("sigma", "networks", "image"))
    for each in networks:
        centre = _centre(photographs, each)
        for picture in tqdm(
            photographs.held_out[:images], desc=f"plug-in, σ = {each.sigma:g}", mininterval=5.0
        ):
            for stages in each.choices:
                if (each.sigma, "+".join(stages), picture.name) not in rows:
                    rows.append(_row(photographs, each, stages, picture, centre))


def _centre(photographs: Photographs, networks: Networks) -> Tensor:
    """The mean unit feature [1, D] of photographs of the training."""
    with torch.no_grad():
        found = [
            networks.clean(levels_of(photographs.image(each, networks.engine))) for each in photographs.centre
        ]
    return torch.cat(found).mean(0, keepdim=True)


def _row(
    photographs: Photographs, networks: Networks, stages: tuple[str, ...], picture: Picture, centre: Tensor
) -> dict[str, object]:
    levels = levels_of(photographs.image(picture, networks.engine))
    with torch.no_grad():
        clean = networks.clean(levels)
    probability = networks.probability(levels)[0]
    units = networks.samples(levels, stages, SAMPLES, f"plug-in {picture.sha256}")
    served = networks.served(levels, stages, N0, f"serving {picture.sha256}")
    score = _score(units, clean)
    top = networks.scores(served)[0].topk(5).indices.tolist()
    clean_class = int(networks.scores(clean).argmax())
    return {
        "sigma": networks.sigma,
        "networks": "+".join(stages),
        "image": picture.name,
        "precision": "bfloat16" if networks.bf16 else "float32",
        "samples": SAMPLES,
        "clean_class": networks.classes.names[clean_class],
        "clean_probability": round(float(probability[clean_class]), 4),
        "score": score,
        "score_served": _score(units, served),
        "score_centred": _score(_centred(units, centre), _centred(clean, centre)),
        "served_to_clean": round(float((served * clean).sum()), 6),
        "radius": round(plug_in_radius(score, networks.sigma), 6),
        "smoothed_class": networks.classes.names[top[0]],
        "in_top_five": clean_class in top,
        "psnr": round(networks.psnr(levels, stages, f"psnr {picture.sha256}"), 2),
        "votes": round(float((networks.scores(units).argmax(-1) == clean_class).double().mean()), 4),
        "device": machine(),
    }


def _centred(units: Tensor, centre: Tensor) -> Tensor:
    return F.normalize(units - centre, dim=-1)


def _score(units: Tensor, anchor: Tensor) -> float:
    """S: the mean of (1 + ⟨f, anchor⟩)/2."""
    return round(float((1 + (units.double() * anchor.double()).sum(-1)).mean() / 2), 6)
