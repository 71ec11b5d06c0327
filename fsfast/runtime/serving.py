"""Smoothed features of a list of images, or of any number of them: groups that share micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fsfast.images.grid import GridImage
from fsfast.runtime.features import SmoothedFeatures, joined
from fsfast.runtime.function import Function, Served
from fsfast.runtime.many import Outcome, groups, on_grid, seeds_of
from fsfast.runtime.progress import Progress, count_of, counting_samples, progress_bar
from fsfast.runtime.seeds import SeedOrigin, Seeds

# Sums are kept per image in float64; so many images at a time bound the memory of a large batch.
GROUP = 16


def encode(
    function: Function,
    items: Sequence[GridImage],
    drawn: Sequence[tuple[int, SeedOrigin]],
    n0: int,
    *,
    raw_mean: bool = False,
    progress: Progress = None,
    seconds: dict[str, float] | None = None,
) -> SmoothedFeatures:
    """Return the features of B ≥ 1 images under their seeds; arguments as `SmoothedEncoder.encode`."""
    with progress_bar(progress, len(items), "encode") as advance:
        starts = range(0, len(items), GROUP)
        pairs = [(items[i : i + GROUP], drawn[i : i + GROUP]) for i in starts]
        return joined([_group(function, *pair, n0, raw_mean, advance, seconds) for pair in pairs])


def encode_each(
    function: Function,
    source: Seeds,
    images: Iterable[Any],
    n0: int,
    seeds: Iterator[int] | None = None,
    *,
    raw_mean: bool = False,
    progress: Progress = None,
) -> Iterator[Outcome[SmoothedFeatures]]:
    """Yield the features of every image, or why there are none; arguments as `SmoothedEncoder.encode_iter`.

    Raises:
        ValueError: fewer seeds than images.
    """
    with progress_bar(progress, count_of(images), "encode") as advance:
        for group in groups(on_grid(images, function.manifest.grid), GROUP):
            items = [outcome.result for outcome in group if outcome.result is not None]
            chosen = None if seeds is None else seeds_of(group, seeds)
            advance(len(group) - len(items))
            results: Iterator[SmoothedFeatures] = iter(())
            if items:
                part = _group(function, items, source.serving(items, chosen), n0, raw_mean, advance)
                results = map(part.__getitem__, range(len(part)))
            for outcome in group:
                found = None if outcome.error is not None else next(results)
                yield Outcome(outcome.position, outcome.name, found, outcome.error)


def _group(
    function: Function,
    items: Sequence[GridImage],
    drawn: Sequence[tuple[int, SeedOrigin]],
    n0: int,
    raw_mean: bool,
    advance: Callable[[float], Any],
    seconds: dict[str, float] | None = None,
) -> SmoothedFeatures:
    seeds = [seed for seed, _ in drawn]
    with counting_samples(advance, len(items), n0) as done:
        part = function.serve(list(items), seeds, n0, raw_mean=raw_mean, advance=done, seconds=seconds)
    return handed_out(function, items, drawn, n0, part)


def handed_out(
    function: Function,
    items: Sequence[GridImage],
    drawn: Sequence[tuple[int, SeedOrigin]],
    n0: int,
    part: Served,
) -> SmoothedFeatures:
    """Return features with all that belongs to them; arguments as `encode`."""
    manifest = function.manifest
    # Pooled features have no axis of tokens.
    tokens = (slice(None), 0) if manifest.pooled else (slice(None),)
    return SmoothedFeatures(
        features=part.features[tokens],
        unit=part.unit[tokens],
        raw_mean=None if part.raw is None else part.raw[tokens],
        seeds=np.array([seed for seed, _ in drawn], np.uint64),
        seed_origins=tuple(origin for _, origin in drawn),
        grid_sha256=tuple(item.grid_sha256 for item in items),
        n0=n0,
        sigma=manifest.sigma,
        engine=manifest.name,
        engine_digest=function.engine_digest,
        function_id=function.function_id,
        random_weights=manifest.random_weights,
        names=tuple(item.name for item in items),
        sources=tuple(item.source for item in items),
    )
