"""The options of SmoothedEncoder, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from fsfast.engine.manifest import STAGES, Manifest
from fsfast.machine import available_threads
from fsfast.sampling import check_samples

MIN_SECRET_BYTES = 16
MAX_THREADS = 1024
LEAST_ROWS, MOST_ROWS = 4, 16


class PrecisionError(ValueError):
    """A precision that the engine, or the back end, does not have."""


def check_secret(secret: bytes | str | None) -> bytes | None:
    """Return the secret as bytes; raises TypeError or ValueError."""
    if secret is None:
        return None
    if not isinstance(secret, (bytes, str)):
        raise TypeError(f"wanted a secret of bytes or str, got {type(secret).__name__}")
    secret = secret.encode() if isinstance(secret, str) else secret
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(
            f"wanted a secret of at least {MIN_SECRET_BYTES} bytes, got {len(secret)}; "
            "secrets.token_bytes(32) makes one"
        )
    return secret


def choose_device(device: str) -> str:
    """Return "cpu", or the name of a GPU; raises ValueError."""
    if device in ("auto", "cpu"):
        return "cpu"
    if str(device).startswith("cuda"):
        return str(device)
    raise ValueError(f"wanted device 'auto', 'cpu' or 'cuda', got {device!r}")


def choose_threads(threads: int | None, name: str = "threads") -> int:
    """Return the number of threads; raises ValueError."""
    if threads is None:
        return available_threads()
    if check_samples(threads, name) > MAX_THREADS:
        raise ValueError(
            f"wanted at most {MAX_THREADS} {name}, got {threads}; this machine has {available_threads()}"
        )
    return int(threads)


def check_micro_batch(manifest: Manifest, precision: str, micro_batch: int) -> int:
    """Return M if all graphs of the engine take it; raises ValueError."""
    ranges = [variants[precision].batch for variants in manifest.stages.values()]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if not low <= check_samples(micro_batch, "micro_batch") <= high:
        raise ValueError(
            f"wanted a micro_batch in {low}…{high}, which this engine's graphs take, got {micro_batch}"
        )
    return int(micro_batch)


def default_micro_batch(manifest: Manifest, precision: str | None = None) -> int:
    """Return M on a GPU where it is not given: the engine's n0 rounded up to a power of two, in 4…16.

    One image with the engine's n0 then fills one micro-batch. It depends on the engine alone: M is part of the
    function's identity.

    Args:
        manifest: of the engine.
        precision: also at most what its graphs of this precision take; None: modules take any number of rows.
    """
    rounded = 1 << (manifest.n0 - 1).bit_length()
    limits = [] if precision is None else [v[precision].batch[1] for v in manifest.stages.values()]
    return min(max(rounded, LEAST_ROWS), MOST_ROWS, *limits)


def choose_precision(manifest: Manifest, precision: str | None) -> str:
    """Return a precision that the engine has; raises ValueError."""
    if precision is None:
        return manifest.precisions[0]
    if precision not in manifest.precisions:
        raise PrecisionError(
            f"wanted a precision of this engine ({', '.join(manifest.precisions)}), got {precision!r}"
        )
    return precision


def choose_stages(manifest: Manifest, stages: Sequence[str] | None) -> tuple[str, ...]:
    """Return the stages to use, in their order; raises ValueError."""
    if stages is None:
        return tuple(manifest.stages)
    if unknown := [stage for stage in stages if stage not in manifest.stages]:
        raise ValueError(f"wanted stages of this engine ({', '.join(manifest.stages)}), got {unknown[0]!r}")
    if "encoder" not in stages:
        raise ValueError("wanted stages with 'encoder' among them; without it there are no features")
    grid = (manifest.grid.height, manifest.grid.width)
    if "purifier" not in stages and grid != manifest.encoder_size:
        raise ValueError(
            f"without the purifier the grid {grid} must be the encoder's input {manifest.encoder_size}; "
            "export an engine without a purifier instead"
        )
    return tuple(stage for stage in STAGES if stage in stages)
