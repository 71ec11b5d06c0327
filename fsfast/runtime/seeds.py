"""Which seed an image's noise gets: the caller's, one that a secret gives, or a fresh one from the system."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fsfast.images.grid import GridImage

SeedOrigin = Literal["os", "secret", "replay"]


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
    def key_id(self) -> str | None:
        """The id of the secret, None where there is none."""
        return None if self._secret is None else key_id(self._secret)

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

    def serving_key_id(self, item: GridImage, seed: int) -> str | None:
        """Return the secret's id where it gives this serving seed; None for every other seed, whoever chose it."""
        return self.key_id if self._derived(item, "encode") == (seed, "secret") else None

    def _derived(self, item: GridImage, purpose: str, *context: object) -> tuple[int, SeedOrigin]:
        if self._secret is None:
            return seed_from_system(), "os"
        seed = seed_from_secret(
            self._secret, purpose, self._engine_digest, self._sigma, item.pixels, *context
        )
        return seed, "secret"


def seed_from_system() -> int:
    """Return 64 unpredictable bits."""
    return secrets.randbits(64)


def seed_from_secret(
    secret: bytes,
    purpose: str,
    engine_digest: str,
    sigma: float,
    pixels: np.ndarray,
    *context: object,
) -> int:
    """Return the seed that belongs to an image under a secret: HMAC-SHA256, first 64 bits.

    The *grid pixels* enter, not the file's bytes: encoding the same picture again gives no free redraw.

    Args:
        secret: at least 16 bytes that clients do not know.
        purpose: what the noise is for ("encode", "certify").
        engine_digest: digest of the engine, hex.
        sigma: noise level in [0,1] units.
        pixels: [H, W, 3] uint8, the image on the grid.
        context: what else the noise must be fresh for. A certificate shows its seed; so certification noise
            depends on the anchor and all settings, or the next anchor could be fitted to noise that is known.
    """
    header = f"fsfast seed 1\n{purpose}\n{engine_digest}\n{sigma!r}\n{'x'.join(map(str, pixels.shape))}\n{context!r}\n"
    message = header.encode() + np.ascontiguousarray(pixels).tobytes()
    return int.from_bytes(hmac.new(secret, message, hashlib.sha256).digest()[:8], "little")


def key_id(secret: bytes) -> str:
    """Return the name of a secret, 16 hex digits, which may be published.

    The same pseudo-random function as the seeds', of a message that no seed has: it tells of the secret and of its
    seeds no more than a seed does that was handed out.
    """
    return hmac.new(secret, b"fsfast key id 1\n", hashlib.sha256).hexdigest()[:16]


def check_seed(seed: int) -> int:
    """Return `seed` as an int in [0, 2⁶⁴).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 1 << 64:
        raise ValueError(f"wanted a seed in 0…2⁶⁴−1, got {seed!r}")
    return int(seed)


def check_seeds(seeds: Sequence[int] | np.ndarray, images: int) -> list[int]:
    """Return one seed per image as a list of ints.

    Raises:
        ValueError: another number of seeds, or one that is none.
    """
    try:
        given = list(seeds)
    except TypeError:
        raise ValueError(f"wanted a list of seeds, one per image, got {seeds!r}") from None
    if len(given) != images:
        raise ValueError(f"wanted one seed per image ({images}), got {len(given)}")
    return [check_seed(seed) for seed in given]
