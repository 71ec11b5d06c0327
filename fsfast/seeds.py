"""Which seed an image's noise gets: the caller's, one that a secret gives, or a fresh one from the system."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fsfast.images.grid import GridImage
from fsfast.sampling import SeedOrigin, check_seeds, seed_from_secret, seed_from_system


class Seeds:
    """The seeds of one encoder.

    Args:
        secret: unknown to clients, or None: seeds from the system.
        engine_digest: hex.
        sigma: noise level in [0,1] pixel units.
    """

    def __init__(self, secret: bytes | None, engine_digest: str, sigma: float) -> None:
        self._secret = secret
        self._engine_digest = engine_digest
        self._sigma = sigma

    @property
    def from_pixels(self) -> bool:
        """Whether seeds depend on the pixels: under a secret."""
        return self._secret is not None

    def serving(
        self, items: Sequence[GridImage], given: Sequence[int] | np.ndarray | None
    ) -> list[tuple[int, SeedOrigin]]:
        """Return the seed of every image's serving noise and how it came about.

        Raises:
            ValueError: `given` are not one seed per image.
        """
        if given is not None:
            return [(seed, "replay") for seed in check_seeds(given, len(items))]
        return [self._derived(item, "encode") for item in items]

    def certification(self, item: GridImage, *context: object) -> tuple[int, SeedOrigin]:
        """Return the seed of the certification noise; under a secret it depends on all that is certified."""
        return self._derived(item, "certify", *context)

    def _derived(self, item: GridImage, purpose: str, *context: object) -> tuple[int, SeedOrigin]:
        if self._secret is None:
            return seed_from_system(), "os"
        seed = seed_from_secret(
            self._secret, purpose, self._engine_digest, self._sigma, item.pixels, *context
        )
        return seed, "secret"
