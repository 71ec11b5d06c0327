"""Which noise goes where: streams, seeds, and the rows of the micro-batches."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Literal

import numpy as np

from fsfast.kernels.types import Rows

SeedOrigin = Literal["os", "secret", "replay"]
MAX_SAMPLES = 1 << 32


class Stream(IntEnum):
    """Noise streams; certification never shares noise with what chose the anchor."""

    SERVING = 0
    CERTIFICATION = 1
    PILOT = 2
    INTERNAL = 3


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


def check_samples(count: int, name: str) -> int:
    """Return a number of samples, n0 or n, in [1, 2³²).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count < MAX_SAMPLES:
        raise ValueError(f"wanted {name} ≥ 1 (an integer below 2³²), got {count!r}")
    return int(count)


def micro_batches(seeds: Sequence[int], samples: int, size: int, first_sample: int = 0) -> Iterator[Rows]:
    """Yield the rows of `samples` samples of every image, `size` at a time; the last ones are padding.

    Rows of different images share micro-batches; the samples of one image come in ascending order.

    Args:
        seeds: one 64-bit seed per image.
        samples: samples per image.
        size: M, rows per micro-batch.
        first_sample: number of the first sample of every image.
    """
    seed_of = np.array(seeds, np.uint64)
    total = len(seeds) * samples
    for first in range(0, total, size):
        row = np.arange(first, min(first + size, total))
        padding = np.full(size - len(row), -1, np.int64)
        image = np.concatenate([row // samples, padding])
        yield Rows(
            image=image.astype(np.int32),
            seed=np.where(image >= 0, seed_of[np.maximum(image, 0)], np.uint64(0)),
            sample=np.concatenate([first_sample + row % samples, np.zeros_like(padding)]).astype(np.uint32),
        )
