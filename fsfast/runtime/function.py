"""The fixed function f of an engine under one execution profile: served means and certification scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Profile
from fsfast.images.grid import GridImage
from fsfast.kernels import noise_total_variation
from fsfast.kernels.types import FeatureSums
from fsfast.runtime.choice import Choice
from fsfast.runtime.features import anchor_of, directions, served_features
from fsfast.runtime.pipeline import Advance, Pipeline, Scores
from fsfast.runtime.sampling import Stream, micro_batches


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
    """An engine, a profile, and the pipeline that computes them.

    Attributes:
        manifest: what the engine says of itself.
        engine_digest: sha256 of its manifest.
        profile: everything else that decides the bits.
        pipeline: rows in, features out.
        keeps_tensors: whether features can stay where tensors on a device are; never on a CPU.
    """

    manifest: Manifest
    engine_digest: str
    profile: Profile
    pipeline: Pipeline
    keeps_tensors: ClassVar[bool] = False

    @cached_property
    def function_id(self) -> str:
        """The function's name, hex."""
        return self.profile.function_id(self.engine_digest)

    @property
    def total_variation(self) -> float:
        """η: how far the integer noise of one image is from rounded Gaussian noise."""
        grid = self.manifest.grid
        return noise_total_variation(self.manifest.sigma, 3 * grid.height * grid.width)

    def takes(self, images: object) -> bool:
        """Whether images are tensors that need not leave the device; never on a CPU."""
        return False

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
        # 2. Rows
        rows = micro_batches(seeds, n0, self.profile.micro_batch)
        self.pipeline.run(stack(items), rows, Stream.SERVING, sums, advance=advance, seconds=seconds)
        return served(sums, n0)

    def scores(
        self,
        items: list[GridImage],
        seeds: list[int],
        n: int,
        units: list[np.ndarray],
        *,
        stream: Stream = Stream.CERTIFICATION,
        first_sample: int = 0,
        sums: FeatureSums | None = None,
        per_token: bool = False,
        advance: Advance | None = None,
    ) -> np.ndarray:
        """Return n scores per image against its directions.

        Args:
            items: B images.
            seeds: one per image.
            n: samples per image.
            units: [L, D] float32 directions per image.
            stream: noise stream.
            first_sample: number of the first sample.
            sums: for B images; unit features are added to it.
            per_token: return the score of every token instead of their mean.
            advance: called with the number of samples done.

        Returns:
            [B, n] float64, or [B, n, L].
        """
        if sums is None:
            sums = FeatureSums.zeros(len(items), self.manifest.tokens, self.manifest.dim)
        rows = micro_batches(seeds, n, self.profile.micro_batch, first_sample)
        anchor = np.stack([anchor_of(unit) for unit in units])
        size, total = self.profile.micro_batch, len(items) * n
        scores = Scores.blank(anchor, -(-total // size) * size, per_token=per_token)
        self.pipeline.run(stack(items), rows, stream, sums, scores=scores, advance=advance)
        # The last rows are padding.
        return scores.values[:total].reshape(len(items), n, *scores.values.shape[1:])


def served(sums: FeatureSums, n0: int) -> Served:
    """Return the features of B images from the sums over their n0 samples."""
    # 9. Features
    unit = directions(sums.unit)
    raw = None if sums.raw is None else (sums.raw / n0).astype(np.float32)
    return Served(served_features(sums, unit), unit, raw)


@dataclass(frozen=True)
class Opened:
    """An engine that is ready to serve on some device.

    Attributes:
        engine: verified.
        choice: the back end, and why.
        function: what is served.
        threads: processors that it may use.
    """

    engine: Engine
    choice: Choice
    function: Function
    threads: int


def stack(items: Iterable[GridImage]) -> np.ndarray:
    """Return the pixels of images on one grid, [B, H, W, 3] uint8."""
    return np.stack([item.pixels for item in items])
