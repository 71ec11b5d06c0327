"""The fixed function f of an engine under one execution profile: served means and certification scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from fsfast.backends import Profile
from fsfast.features import anchor_of, directions, served_features
from fsfast.images import GridImage
from fsfast.kernels import noise_total_variation
from fsfast.kernels.types import FeatureSums
from fsfast.manifest import Manifest
from fsfast.pipeline import Pipeline
from fsfast.sampling import Stream, micro_batches

Advance = Callable[[int], Any]


@dataclass(frozen=True)
class Served:
    """Features of B images from their serving samples.

    Attributes:
        features: [B, L, D] float32, mean raw norm × direction.
        unit: [B, L, D] float32, the directions.
        raw: [B, L, D] float32, mean of the raw features, or None.
    """

    features: np.ndarray
    unit: np.ndarray
    raw: np.ndarray | None


@dataclass(frozen=True)
class Function:
    """An engine, a profile, and the pipeline that computes both.

    Attributes:
        manifest: what the engine says of itself.
        engine_digest: sha256 of its manifest.
        profile: everything else that decides the bits.
        pipeline: rows in, features out.
    """

    manifest: Manifest
    engine_digest: str
    profile: Profile
    pipeline: Pipeline

    @property
    def function_id(self) -> str:
        """The function's name, hex."""
        return self.profile.function_id(self.engine_digest)

    @property
    def total_variation(self) -> float:
        """η: how far the integer noise of one image is from rounded Gaussian noise."""
        grid = self.manifest.grid
        return noise_total_variation(self.manifest.sigma, 3 * grid.height * grid.width)

    def serve(
        self,
        items: list[GridImage],
        seeds: list[int],
        n0: int,
        *,
        raw_mean: bool = False,
        advance: Advance | None = None,
        seconds: dict[str, float] | None = None,
    ) -> Served:
        """Average n0 samples of the serving stream for every image."""
        sums = FeatureSums.zeros(len(items), self.manifest.tokens, self.manifest.dim, raw=raw_mean)
        rows = micro_batches(seeds, n0, self.profile.micro_batch)
        with closing(
            self.pipeline.reduce(stack(items), rows, Stream.SERVING, sums, seconds=seconds)
        ) as chunks:
            for _ in chunks:
                if advance:
                    advance(self.profile.micro_batch)
        unit = directions(sums.unit)
        raw = None if sums.raw is None else (sums.raw / n0).astype(np.float32)
        return Served(served_features(sums, unit), unit, raw)

    def scores(
        self, item: GridImage, seed: int, n: int, unit: np.ndarray, advance: Advance | None = None
    ) -> np.ndarray:
        """Return n scores of the certification stream against the directions `unit` [L, D]: [n] float64."""
        sums = FeatureSums.zeros(1, self.manifest.tokens, self.manifest.dim)
        size = self.profile.micro_batch
        scores = np.empty(-(-n // size) * size)
        rows = micro_batches([seed], n, size)
        anchor = anchor_of(unit)[None]
        with closing(
            self.pipeline.reduce(stack([item]), rows, Stream.CERTIFICATION, sums, anchor=anchor)
        ) as chunks:
            for i, chunk in enumerate(chunks):
                scores[i * size : (i + 1) * size] = chunk
                if advance:
                    advance(size)
        return scores[:n]


def stack(items: Iterable[GridImage]) -> np.ndarray:
    """Return the pixels of images on one grid, [B, H, W, 3] uint8."""
    return np.stack([item.pixels for item in items])
