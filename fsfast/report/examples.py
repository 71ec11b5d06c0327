"""Pictures that come with the package: held-out test images of the built-in engine, plain and attacked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets" / "examples"


@dataclass(frozen=True)
class Example:
    """One test image.

    Attributes:
        name: for tables.
        image: a PNG on the engine's grid.
        attacked: the same after a targeted attack on the plain encoder, ℓ∞ 16/255.
        label: the class that is drawn.
        target: the class that the attack aims at.
    """

    name: str
    image: Path
    attacked: Path
    label: str
    target: str


def load_examples() -> list[Example]:
    """Return the examples; neither training nor the choice of any setting ever saw them."""
    listed = json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(row["name"], FOLDER / row["image"], FOLDER / row["attacked"], row["label"], row["target"])
        for row in listed
    ]
