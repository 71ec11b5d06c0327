"""What an attack is after: the features of another image, or a class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fsfast.errors import FsfastError, did_you_mean
from study.victim import Victim


@dataclass(frozen=True, eq=False)
class Target:
    """One target for each image of a batch; images or classes, or both.

    Attributes:
        levels: [B, 3, H, W] target images, or None.
        features: f_e of them, [B, L, D], or None.
        classes: [B] int64, or None.
    """

    levels: Tensor | None = None
    features: Tensor | None = None
    classes: Tensor | None = None

    def __getitem__(self, rows: slice) -> Target:
        def part(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        return Target(part(self.levels), part(self.features), part(self.classes))

    def as_image(self) -> Target:
        """Return the target without its classes, where it has an image."""
        return self if self.levels is None else replace(self, classes=None)

    def as_class(self) -> Target:
        """Return the target without its image, where it has a class."""
        return self if self.classes is None else replace(self, levels=None, features=None)


@torch.no_grad()
def image_target(victim: Victim, levels: Tensor) -> Target:
    """Return target images, and the classes that the encoder sees in them where there are any: [B, 3, H, W]."""
    features = victim.clean(levels)
    classes = None if victim.classes is None else victim.scores(features).argmax(1)
    return Target(levels, features, classes)


def class_target(victim: Victim, name: str, images: int) -> Target:
    """Return a class by its name or number, for so many images.

    Raises:
        FsfastError: the engine has no such class.
    """
    if victim.classes is None:
        raise FsfastError(f"wanted an image as target, since this engine has no classes, got {name!r}")
    names = victim.classes.names
    if name in names:
        index = names.index(name)
    elif name.isdigit() and int(name) < len(names):
        index = int(name)
    else:
        raise FsfastError(
            f"wanted the target to be an image or one of {len(names)} classes, got {name!r}"
            f"{did_you_mean(name, names)}"
        )
    return Target(classes=torch.full((images,), index, device=victim.device))
