"""Many images one after the other: what became of each, and one bad image sinks no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, get_args

from PIL import Image

from fsfast.errors import FsfastError, ImageError
from fsfast.images.grid import Grid, GridImage, as_list, to_grid_image

OnError = Literal["raise", "skip", "return"]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """What became of one image of many.

    Attributes:
        position: of the image among all, counted from 0; images that failed count, too.
        name: its path, or None where it came without a name.
        result: what was asked for, or None where it failed.
        error: why it failed, or None.
    """

    position: int
    name: str | None
    result: T | None
    error: FsfastError | TypeError | None = None


def check_many(images: object, on_error: str) -> None:
    """Refuse what is no iterable of images, before any work.

    Raises:
        TypeError: a single image.
        ValueError: an unknown `on_error`.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"wanted on_error to be one of {', '.join(get_args(OnError))}; got {on_error!r}")
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image, GridImage))
    if single or getattr(images, "ndim", 4) != 4 or not isinstance(images, Iterable):
        raise TypeError(
            f"wanted an iterable of images, got a single {type(images).__name__}; put it into a list"
        )


def on_grid(images: Iterable[Any], grid: Grid) -> Iterator[Outcome[GridImage]]:
    """Yield every image on the grid, or why it cannot be put there; arguments as `outcomes_of`."""
    return outcomes_of(images, lambda image: to_grid_image(image, grid))


def outcomes_of(images: Iterable[Any], convert: Callable[[Any], T]) -> Iterator[Outcome[T]]:
    """Yield what is made of every image, or why it is none; batches [B, H, W, 3] are spliced in.

    Args:
        images: anything that `to_grid_image` takes, one after the other; nothing is read ahead.
        convert: takes one image; raises ImageError or TypeError.
    """
    position = 0
    for given in images:
        for image, result, error in _each(given, convert):
            yield Outcome(position, _name(image), result, error)
            position += 1


def _each(
    given: Any, convert: Callable[[Any], T]
) -> Iterator[tuple[Any, T | None, ImageError | TypeError | None]]:
    try:
        parts, _ = as_list([given])
    except (ImageError, TypeError) as error:
        yield given, None, error
        return
    for part in parts:
        try:
            yield part, convert(part), None
        except (ImageError, TypeError) as error:
            yield part, None, error


def _name(image: Any) -> str | None:
    if isinstance(image, GridImage):
        return image.name
    return os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else None


def groups(outcomes: Iterator[Outcome[T]], size: int) -> Iterator[list[Outcome[T]]]:
    """Yield `size` outcomes at a time, and what is left in the end."""
    while group := list(islice(outcomes, size)):
        yield group


def seeds_of(group: list[Outcome[T]], seeds: Iterator[int]) -> list[int]:
    """Take a seed for every image of a group, and return those of the images that did not fail.

    Raises:
        ValueError: they end before the images.
    """
    taken = list(islice(seeds, len(group)))
    if len(taken) < len(group):
        raise ValueError(f"wanted a seed for every image, got only {group[0].position + len(taken)}")
    return [seed for seed, outcome in zip(taken, group, strict=True) if outcome.error is None]


def judged(outcomes: Iterator[Outcome[T]], on_error: OnError) -> Iterator[Outcome[T]]:
    """Yield outcomes as the caller wants to meet those that failed.

    Raises:
        FsfastError, TypeError: with "raise", that of the first image that failed, naming its position.
    """
    for outcome in outcomes:
        if outcome.error is None or on_error == "return":
            yield outcome
        elif on_error == "raise":
            error = outcome.error
            named = type(error)(f"image {outcome.position} (counted from 0): {error}")
            # Also what it has beside its text.
            vars(named).update(vars(error))
            raise named from error


def whole(outcomes: Iterable[Outcome[T]], single: bool) -> list[T]:
    """Return the results of all images.

    Args:
        outcomes: of every image.
        single: whether an image came alone, so that its error names no position.

    Raises:
        FsfastError, TypeError: that of the first image that failed.
    """
    found = list(outcomes) if single else list(judged(iter(outcomes), "raise"))
    if found and found[0].error is not None:
        raise found[0].error
    return [outcome.result for outcome in found if outcome.result is not None]
