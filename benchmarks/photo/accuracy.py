"""How many of the labelled photographs an EfficientNet-Lite0 classifies rightly, by preprocessing and by head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.photo.labels import Labelled
from export.class_rows import read_names
from export.recipe import Recipe
from fsfast.images.grid import to_grid_image
from fsfast.models import load_efficientnet

_IMAGENET = "ImageNet's mean and standard deviation", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LITE = "(x − 127)/128"
HEADS = ("rows and biases", "rows, as in the engine", "unit rows")


@dataclass(frozen=True)
class Answers:
    """The classes that one head gives behind one preprocessing.

    Attributes:
        preprocessing, head: in words.
        classes: of each photograph.
    """

    preprocessing: str
    head: str
    classes: tuple[str, ...]

    def right(self, labels: Sequence[Labelled]) -> list[bool]:
        """Whether each is one of the right classes."""
        return [found in each.classes for found, each in zip(self.classes, labels, strict=True)]


@torch.no_grad()
def answers(recipe: Recipe, encoder: Path, pictures: Sequence[Path]) -> Iterator[Answers]:
    """Classify pictures on the recipe's grid by the network in torch, without noise.

    Args:
        recipe: of an EfficientNet with classes.
        encoder: its checkpoint.
        pictures: files.

    Raises:
        CheckpointError: the checkpoint cannot be used, or has no classifier.
    """
    loaded = load_efficientnet(encoder)
    assert recipe.classifier is not None
    assert loaded.classifier is not None
    names, (rows, biases) = read_names(recipe.classifier), loaded.classifier
    features = loaded.module.features("pooled")
    levels = np.stack([to_grid_image(picture, recipe.grid).pixels for picture in pictures])
    pixels = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    unit = rows / rows.norm(dim=1, keepdim=True)
    for preprocessing, mean, std in ((_LITE, recipe.mean, recipe.std), _IMAGENET):
        normalised = (pixels - _channels(mean)) / _channels(std)
        pooled = torch.cat([features(part)[:, 0] for part in normalised.split(16)])
        for head, scores in zip(
            HEADS, (pooled @ rows.T + biases, pooled @ rows.T, pooled @ unit.T), strict=True
        ):
            yield Answers(preprocessing, head, tuple(names[k] for k in scores.argmax(1).tolist()))


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
