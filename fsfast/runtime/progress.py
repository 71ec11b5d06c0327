"""One progress bar over all images; it stays away from pipes and from work that ends within a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Any

# True, False, None: see `progress_bar`; or a function that is told how many images more are done, in fractions, too.
Progress = bool | Callable[[float], Any] | None

_KNOWN = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} images [{elapsed}<{remaining}]"
_ENDLESS = "{desc}: {n:.1f} images [{elapsed}]"


@contextmanager
def progress_bar(wanted: Progress, images: int | None, what: str) -> Iterator[Callable[[float], Any]]:
    """Yield a function that is told how many images more are done; a fraction is part of one.

    Args:
        wanted: True shows the bar at once, False never, None on a terminal or in a notebook after a second. A function
            is called instead of showing a bar.
        images: how many there are; None: not known.
        what: the bar's label.
    """
    if callable(wanted):
        yield wanted
        return
    from tqdm.auto import tqdm

    # On None tqdm asks whether stderr is a terminal; that of a notebook says no.
    disable = not wanted if wanted is not None else False if _in_notebook() else None
    # Who asks for a bar gets one; otherwise short work shows none.
    delay = 0.0 if wanted else 1.0
    shape = _ENDLESS if images is None else _KNOWN
    with tqdm(total=images, desc=what, bar_format=shape, disable=disable, delay=delay, leave=False) as bar:
        # Sums of fractions may end a little above.
        yield lambda count: bar.update(count if images is None else min(count, images - bar.n))


@contextmanager
def counting_samples(
    advance: Callable[[float], Any], images: int, samples: int
) -> Iterator[Callable[[int], Any]]:
    """Yield a function that is told how many samples more were drawn; in the end `images` images are done.

    Args:
        advance: is told images.
        images: how many share these samples.
        samples: of each at most; some may need fewer, and the last micro-batch may be padded.
    """
    done = 0.0

    def drawn(count: int) -> None:
        nonlocal done
        step = min(count / samples, images - done)
        done += step
        advance(step)

    yield drawn
    advance(images - done)


def count_of(images: object) -> int | None:
    """Return how many images there are, or None for what does not say so before its end."""
    return len(images) if isinstance(images, Sized) else None


def beside_bars() -> AbstractContextManager[Any]:
    """Return a context in which lines can be printed without running into a bar."""
    from tqdm import tqdm

    manager: AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stdout)
    return manager


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows what is written though it is no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
