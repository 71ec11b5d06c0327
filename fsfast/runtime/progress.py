"""A progress bar that stays away from pipes and from work that ends within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(wanted: bool | None, total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """Yield a function that is told how many samples were done.

    Args:
        wanted: True shows the bar at once, False never, None on a terminal after a second.
        total: number of samples.
        what: the bar's label.
    """
    from tqdm import tqdm

    disable = None if wanted is None else not wanted
    # Who asks for a bar gets one; otherwise short work shows none.
    delay = 0.0 if wanted else 1.0
    with tqdm(total=total, desc=what, unit="sample", disable=disable, delay=delay, leave=False) as bar:
        # The last micro-batch may be padded.
        yield lambda count: bar.update(min(count, total - bar.n))
