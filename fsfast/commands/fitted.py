"""What pictures became on the engine's grid: said wherever one was cut, scaled or padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fsfast.errors import printable
from fsfast.images.grid import GridImage


@dataclass
class Fitted:
    """Counts images, and remembers the first whose size changed.

    Attributes:
        images: seen so far, without those that could not be read.
        changed: of another size than the grid.
        first: the first of these.
    """

    images: int = 0
    changed: int = 0
    first: GridImage | None = None

    def watch(self, images: Iterable[GridImage | None]) -> Iterator[GridImage | None]:
        """Yield the images."""
        for image in images:
            if image is not None:
                self._count(image)
            yield image

    def _count(self, image: GridImage) -> None:
        self.images += 1
        if list(image.source["size"]) != list(image.pixels.shape[:2]):
            self.changed += 1
            self.first = self.first or image

    def lines(self) -> list[str]:
        """Return what to print: nothing where no size changed."""
        if self.first is None:
            return []
        height, width = self.first.source["size"]
        name = printable(Path(self.first.name or "an image").name)
        became = f"{name} ({height}×{width}, height × width): {', '.join(self.first.source['steps'])}"
        if self.images == 1:
            return [f"On the grid: {became}"]
        rows, columns = self.first.pixels.shape[:2]
        return [f"On the grid: {self.changed} of {self.images} images were not {rows}×{columns}; {became}"]
