"""Whose rows come next: images wait in one line per client, and clients take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from fsfast.images.grid import GridImage
from fsfast.runtime.function import Served


@dataclass(eq=False)
class Image:
    """One image to be served.

    Attributes:
        item: on the grid.
        seed: of its serving noise.
        n0: its rows.
        client: who asks.
        future: of its features.
        place: where its sums are, while it is worked on.
        sent: rows that were handed out.
        done: rows that are in its sums.
    """

    item: GridImage
    seed: int
    n0: int
    client: str
    future: Future[Served] = field(default_factory=Future)
    place: int | None = None
    sent: int = 0
    done: int = 0


@dataclass(eq=False)
class _Line:
    """The images of one client.

    Attributes:
        clock: rows that it was given, counted from the time at which it came.
        turn: its clock when its current turn began.
        left: rows of its current turn.
    """

    clock: float
    images: deque[Image] = field(default_factory=deque)
    turn: float = 0.0
    left: int = 0

    @property
    def key(self) -> tuple[float, bool]:
        """Who has the least comes first; among equals, who has begun."""
        return (self.turn, False) if self.left else (self.clock, True)


class Turns:
    """Start-time fair queueing: the client that was given the fewest rows is next, for one turn.

    A turn is `quantum` rows of one image. A client that comes anew is one turn ahead of those that are served
    already, so that a single image overtakes any backlog; its next one is not. Without locks.

    Args:
        quantum: rows of an ordinary image.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._lines: dict[str, _Line] = {}
        self._left: dict[str, float] = {}
        # The clock of a client that was served evenly all the time.
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __len__(self) -> int:
        return sum(len(line.images) for line in self._lines.values())

    def add(self, image: Image) -> None:
        """Put an image at the end of its client's line."""
        line = self._lines.get(image.client)
        if line is None:
            # Where nobody waits there is nobody to overtake.
            ahead = self._now - self._quantum * bool(self._lines)
            line = self._lines[image.client] = _Line(max(ahead, self._left.pop(image.client, ahead)))
        line.images.append(image)

    def take(self, most: int, may: Callable[[Image], bool]) -> tuple[Image, int] | None:
        """Return the image that is next, and how many of its rows; 0 rows of one that has ended.

        Args:
            most: rows at most.
            may: whether an image may be worked on now; the others wait.
        """
        lines = self._lines
        names = [name for name, line in lines.items() if may(line.images[0])]
        if not names:
            return None
        name = min(names, key=lambda name: lines[name].key)
        line = lines[name]
        image = line.images[0]
        if image.future.done():
            self._next(name, line)
            return image, 0
        if not line.left:
            line.turn, line.left = line.clock, min(self._quantum, image.n0 - image.sent)
            line.clock += line.left
        rows = min(most, line.left)
        line.left -= rows
        image.sent += rows
        self._now += rows / len(lines)
        if image.sent == image.n0:
            self._next(name, line)
        return image, rows

    def clear(self) -> list[Image]:
        """Return all images that wait, and forget them."""
        images = [image for line in self._lines.values() for image in line.images]
        self._lines.clear()
        return images

    def _next(self, name: str, line: _Line) -> None:
        """Go on to the client's next image, or let it leave."""
        line.images.popleft()
        line.left = 0
        if line.images:
            return
        del self._lines[name]
        self._left[name] = line.clock
        if len(self._left) > 2 * len(self._lines) + 64:
            # Whose clock is no longer ahead of a newcomer's is one.
            ahead = self._now - self._quantum
            self._left = {name: clock for name, clock in self._left.items() if clock > ahead}
