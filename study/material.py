"""The images of the studies with their targets: digits of scikit-learn, and photographs that no training saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.photo.pictures import Photographs
from fsfast.errors import FsfastError
from study.targets import Target, image_target
from study.victim import Victim
from train.data import StudyData, study_set
from train.glyphs import TARGET
from train.images import levels_of


@dataclass(frozen=True, eq=False)
class Material:
    """Images of one study.

    Attributes:
        engine: name of the engine that is attacked.
        names: of the images.
        levels: [B, 3, H, W].
        labels: [B], the classes that count as right.
        target: of every image.
        batch: images that are attacked together.
    """

    engine: str
    names: tuple[str, ...]
    levels: Tensor
    labels: Tensor
    target: Target
    batch: int


def digits(victim: Victim, images: int | None) -> Material:
    """Return test digits; the target of each is another test image, of a star, which none of them shows."""
    test = study_set(0, images or 100)
    found, stars = StudyData("test", 0), []
    for number in range(1, 1000):
        batch = found.batch(number, 100)
        stars.append(batch.images[batch.labels == TARGET])
        if sum(map(len, stars)) >= len(test.images):
            break
    target = image_target(victim, torch.cat(stars)[: len(test.images)].to(victim.device))
    names = tuple(f"digit {i}" for i in range(len(test.images)))
    levels, labels = test.images.to(victim.device), test.labels.to(victim.device)
    return Material("demo", names, levels, labels, target, 10)


def photographs(victim: Victim, engine: str, data: Path, images: int | None) -> Material:
    """Return held-out photographs of `python -m train photo-data`; right is what the encoder sees without an attack.

    The target of each is the next one that it sees another class in.
    """
    chosen = Photographs.of(data)
    pictures = chosen.held_out[:images]
    if len(pictures) < 2:
        raise FsfastError(f"wanted at least two held-out photographs in {data}, got {len(pictures)}")
    from fsfast.engine.engine import load_engine

    opened = load_engine(engine)
    levels = torch.cat([levels_of(chosen.image(each, opened), victim.device) for each in pictures])
    with torch.no_grad():
        labels = torch.cat([victim.scores(victim.clean(part)).argmax(1) for part in levels.split(8)])
    order = [_next_of_another(labels, i) for i in range(len(labels))]
    target = image_target(victim, levels[order])
    return Material(engine, tuple(each.name for each in pictures), levels, labels, target, 4)


def _next_of_another(labels: Tensor, i: int) -> int:
    others = ((i + k) % len(labels) for k in range(1, len(labels)))
    return next((j for j in others if labels[j] != labels[i]), (i + 1) % len(labels))
