"""What the tables of results are made of: attacks, radii and seeds for each part.

Numbers of steps and noises stand with the attacks. They were chosen on images of the training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Aimed = Literal["image", "class"]


@dataclass(frozen=True)
class Entry:
    """One attack of a part.

    Attributes:
        attack: its name in the catalogue; "clean" for images as they are.
        levels: ℓ∞ radii, of 255; empty where the attack has none.
        seeds: of the attack.
        aimed: at the features of target images, or at their class.
    """

    attack: str
    levels: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    aimed: Aimed = "image"


_CHANGES = tuple(Entry(name, seeds=(0,)) for name in ("typographic", "jpeg", "blur", "brightness"))
_PUBLISHED = tuple(Entry(name, (16, 32)) for name in ("attackvlm", "m-attack", "foa-attack"))

PARTS: dict[str, tuple[Entry, ...]] = {
    # Cheap ones first.
    "digits": (
        Entry("clean", seeds=(0,)),
        *_CHANGES,
        Entry("class", (16, 32), aimed="class"),
        Entry("purified", (16,), aimed="class"),
        Entry("purifier", (16,)),
        *_PUBLISHED,
        Entry("known-seed", (16, 32), aimed="class"),
        Entry("eot-4", (16, 32, 64), aimed="class"),
        Entry("apgd-eot-8", (16,), (0,), aimed="class"),
        Entry("eot-16", (16, 64), (0,), aimed="class"),
        Entry("eot-8-rounds", (16,), aimed="class"),
        Entry("eot-32", (16, 64), (0,), aimed="class"),
    ),
    "photo": (
        Entry("clean", seeds=(0,)),
        *_CHANGES,
        *_PUBLISHED,
        Entry("known-seed", (16,)),
        Entry("eot-4", (16, 32, 64), (0,)),
        Entry("eot-8-rounds", (16,), (0,), aimed="class"),
    ),
}
