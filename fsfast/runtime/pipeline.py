"""What a pipeline is: images and rows in, sums of features and scores out, on whatever device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fsfast.errors import FsfastError
from fsfast.kernels.types import FeatureSums, NoiseTables, Rows
from fsfast.runtime.sampling import Stream

# In this order, on every device; steps 3 to 8 of docs/architecture.md.
STEPS = ("noise", "purifier", "resize", "encoder", "mapper", "reduction")

# Called with the number of samples that are done.
Advance = Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class Sample:
    """One noisy sample of an image, on its way to the encoder.

    Attributes:
        noisy: [H, W, 3] int16, grid levels x + N; they leave 0…255 where the noise leads.
        purified: [H, W, 3] float32 in [0, 1], what the purifier makes of it on the grid; None without one.
    """

    noisy: np.ndarray
    purified: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of rows: inner products with the anchor of their image, mapped to [0, 1].

    Attributes:
        anchor: [B, L, D] float64 unit directions per token.
        values: [R] float64, or [R, L] for the score of every token instead of their mean; R rows in their order,
            padding included. Filled by `Pipeline.run`.
    """

    anchor: np.ndarray
    values: np.ndarray

    @classmethod
    def blank(cls, anchor: np.ndarray, rows: int, *, per_token: bool = False) -> Scores:
        """Return scores of so many rows that are not known yet."""
        return cls(anchor, np.empty((rows, anchor.shape[1]) if per_token else rows))

    @property
    def per_token(self) -> bool:
        """Whether every token has a score."""
        return self.values.ndim == 2


def encoder_closed() -> FsfastError:
    """Return the error of whoever uses an encoder after `close`."""
    return FsfastError("the encoder is closed; open a new SmoothedEncoder")


class Pipeline(Protocol):
    """The fixed function of an engine, evaluated on micro-batches of M rows; may be used from several threads at once.

    Attributes:
        micro_batch: M.
        noise: tables of the noise that is added.
        times_steps: whether `run` can say how long each of STEPS takes: not on a GPU, where they overlap.
        device: "cpu", "cuda:0", …
        closed: whether `close` was called.
    """

    device: str
    closed: bool
    micro_batch: int
    noise: NoiseTables
    times_steps: bool

    def run(
        self,
        images: np.ndarray,
        rows: Iterable[Rows],
        stream: Stream,
        sums: FeatureSums,
        *,
        scores: Scores | None = None,
        advance: Advance | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        """Add the features of all rows to `sums`, in the order of the rows, and score them.

        Args:
            images: [B, H, W, 3] uint8 on the grid.
            rows: micro-batches of M rows, as `fsfast.runtime.sampling.micro_batches` makes them.
            stream: noise stream.
            sums: for B images; updated in place.
            scores: what the rows are scored against, and where the scores go; None: they are not scored.
            advance: called with M for every micro-batch.
            seconds: where given, the seconds spent in each of STEPS are added to it.

        Raises:
            ValueError: `seconds` is given and `times_steps` is not so.
        """

    def clean(self, images: np.ndarray) -> np.ndarray:
        """Return the raw features of the encoder alone on the clean images, [B, L, D] float32.

        No noise, no purifier, no mapper: the encoder as its user knows it.
        """

    def sample(self, image: np.ndarray, seed: int, index: int) -> Sample:
        """Return sample number `index` of the serving stream of one image, before it is resized and encoded.

        Args:
            image: [H, W, 3] uint8 on the grid.
            seed: of the image.
            index: number of the sample, in [0, 2³²).
        """

    def close(self) -> None:
        """Give back what it holds; whoever computes still is told so."""
