"""The photographs that were labelled by hand, before any network had seen them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from train.photos.assembling import read_manifest

LABELS = Path(__file__).with_name("labels.csv")


@dataclass(frozen=True)
class Labelled:
    """A photograph whose main subject is a class of ImageNet.

    Attributes:
        package, name: that `python -m train photo-data` has it by.
        sha256: of its file.
        licence: as the package says it.
        classes: those that are right.
    """

    package: str
    name: str
    sha256: str
    licence: str
    classes: tuple[str, ...]


def read_labels() -> list[Labelled]:
    """Return the labelled photographs."""
    with open(LABELS, encoding="utf-8", newline="") as file:
        return [
            Labelled(
                row["package"], row["name"], row["sha256"], row["licence"], tuple(row["classes"].split("; "))
            )
            for row in csv.DictReader(file)
        ]


def find_files(data: Path, labels: list[Labelled]) -> list[Path]:
    """Return the file of each labelled photograph in a folder of `python -m train photo-data`.

    Raises:
        ValueError: some are not there; they are named.
    """
    there = {picture.sha256: data / picture.file for picture in read_manifest(data)}
    missing = [each.name for each in labels if each.sha256 not in there]
    if missing:
        raise ValueError(
            f"wanted all {len(labels)} labelled photographs in {data}, got {len(labels) - len(missing)}; without "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}; a package is missing or of another version"
        )
    return [there[each.sha256] for each in labels]
