"""A progress bar that stays away from pipes and from work that ends within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(wanted: bool | None, total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """Yield a function that is told how many samples were done.

    Args:
        wanted: True shows the bar, False does not, None shows it on a terminal.
        total: number of samples.
        what: the bar's label.
    """
    from tqdm import tqdm

    disable = None if wanted is None else not wanted
    with tqdm(total=total, desc=what, unit="sample", disable=disable, delay=1.0, leave=False) as bar:
        # The last micro-batch may be padded.
        yield lambda count: bar.update(min(count, total - bar.n))
