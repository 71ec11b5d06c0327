"""The work of the study in parts: how many operations each takes, and a bar with the time to go over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Part:
    """Some rows of one table.

    Attributes:
        title: for the bar.
        flops: of all its rows.
        done: of those that an earlier call finished.
        run: does what is left; is given a function that it tells the operations that it finished.
    """

    title: str
    flops: float
    done: float
    run: Callable[[Advance], None]


def run(parts: Sequence[Part], after_each: Callable[[], object] = lambda: None) -> None:
    """Do what is left of the parts, one after the other, under one bar; `after_each` is called after each."""
    with tqdm(
        total=sum(part.flops for part in parts),
        initial=sum(part.done for part in parts),
        bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}, to go {remaining}]",
        mininterval=0.5,
    ) as bar:
        for part in (part for part in parts if part.done < part.flops):
            bar.set_description_str(part.title)
            part.run(bar.update)
            after_each()
