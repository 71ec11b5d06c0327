"""What many machines would do, from what two workers did: on paper, and what is full first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fsfast.report.text import table


@dataclass(frozen=True)
class Site:
    """Where it is to run.

    Attributes:
        machines: how many.
        cores: of each, that work.
        network: bytes per second that one machine sends or receives.
        store: bytes per second that the store of images and features takes and gives, in sum over all machines.
        store_files: files per second that it opens or makes.
        slice_images: of a slice of Ray Data.
    """

    machines: int = 64
    cores: int = 32
    network: float = 1.25e9
    store: float = 1.25e9
    store_files: float = 5000.0
    slice_images: int = 64


@dataclass(frozen=True)
class Load:
    """How much of something is used when all cores work.

    Attributes:
        what: in words.
        used, most: per second.
    """

    what: str
    used: float
    most: float

    @property
    def share(self) -> float:
        """Above 1 it is full before the cores are."""
        return self.used / self.most


def loads(seconds: float, read: float, written: float, site: Site) -> list[Load]:
    """Return how much is used of everything, the fullest first.

    Args:
        seconds: of one core for one image, by a worker of Ray Data.
        read, written: bytes of one image and of its features.
        site: the machines.
    """
    images = site.machines * site.cores / seconds
    per_machine = (read + written) * images / site.machines
    found = [
        Load("store, bytes", (read + written) * images, site.store),
        Load("store, files", images * (1 + 2 / site.slice_images), site.store_files),
        Load("network of a machine, bytes", per_machine, site.network),
        # Ray's own are milliseconds: one row of numbers comes back of each slice.
        Load("driver, slices", images / site.slice_images, 1000.0),
    ]
    return sorted(found, key=lambda load: -load.share)


def text(found: Sequence[Load], images: float) -> str:
    """Return it for people; `images` per second of all cores."""
    limit = images / max(1.0, found[0].share)
    cells = [(load.what, f"{load.used:.3g}", f"{load.most:.3g}", f"{load.share:.1%}") for load in found]
    return (
        table(cells, ("per second", "used", "most", "share"))
        + f"\ncores alone: {images:.4g} images/s; with {found[0].what}: {limit:.4g} images/s"
    )
