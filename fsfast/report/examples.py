"""Pictures that come with the package: held-out images of the built-in engines, plain and attacked."""

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
        label: the class that is shown.
        target: the class that the attack aims at.
    """

    name: str
    image: Path
    attacked: Path
    label: str
    target: str


def load_examples(engine: str = "demo") -> list[Example]:
    """Return the examples of a built-in engine, none for another; no training ever saw them."""
    folder = FOLDER / engine
    if not (folder / "examples.json").is_file():
        return []
    listed = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(row["name"], folder / row["image"], folder / row["attacked"], row["label"], row["target"])
        for row in listed
    ]
