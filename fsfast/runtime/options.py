"""The options of SmoothedEncoder, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fsfast.engine.manifest import STAGES, Manifest
from fsfast.errors import did_you_mean
from fsfast.machine import available_threads
from fsfast.runtime.sampling import check_samples

MIN_SECRET_BYTES = 16
MAX_THREADS = 1024
LEAST_ROWS, MOST_ROWS = 4, 16


class PrecisionError(ValueError):
    """A precision that the engine, or the back end, does not have."""


@dataclass(frozen=True)
class Options:
    """How an engine is to be opened; every field as the argument of `SmoothedEncoder` with its name, device as text."""

    device: str = "auto"
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    micro_batch: int | None = None
    graph_threads: int | None = None
    stages: Sequence[str] | None = None


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


def check_micro_batch(rows: tuple[int, int], micro_batch: int) -> int:
    """Return M if the networks take it; raises ValueError.

    Args:
        rows: the smallest and the largest number that they take.
        micro_batch: M.
    """
    low, high = rows
    if not low <= check_samples(micro_batch, "micro_batch") <= high:
        raise ValueError(
            f"wanted a micro_batch in {low}…{high}, which this engine's networks take, got {micro_batch}"
        )
    return int(micro_batch)


def default_micro_batch(manifest: Manifest, rows: tuple[int, int]) -> int:
    """Return M on a GPU where it is not given: the engine's n0 rounded up to a power of two, in 4…16.

    One image with the engine's n0 then fills one micro-batch. It depends on the engine alone: M is part of the
    function's identity.

    Args:
        manifest: of the engine.
        rows: the smallest and the largest number that its networks take.
    """
    rounded = 1 << (manifest.n0 - 1).bit_length()
    return min(max(rounded, LEAST_ROWS), MOST_ROWS, rows[1])


def choose_precision(able: Sequence[str], precision: str | None, whose: str = "this engine") -> str:
    """Return a precision of those that there are, the first one by default; raises PrecisionError."""
    if precision is None:
        return able[0]
    if precision not in able:
        near = did_you_mean(str(precision), able)
        raise PrecisionError(f"wanted a precision of {whose} ({', '.join(able)}), got {precision!r}{near}")
    return precision


def choose_stages(manifest: Manifest, stages: Sequence[str] | None) -> tuple[str, ...]:
    """Return the stages to use, in their order; raises ValueError."""
    if stages is None:
        return tuple(manifest.stages)
    if unknown := [stage for stage in stages if stage not in manifest.stages]:
        near = did_you_mean(str(unknown[0]), manifest.stages)
        raise ValueError(
            f"wanted stages of this engine ({', '.join(manifest.stages)}), got {unknown[0]!r}{near}"
        )
    if "encoder" not in stages:
        raise ValueError("wanted stages with 'encoder' among them; without it there are no features")
    grid = manifest.grid.size
    if "purifier" not in stages and grid != manifest.encoder_size:
        raise ValueError(
            f"without the purifier the grid {grid} must be the encoder's input {manifest.encoder_size}; "
            "export an engine without a purifier instead"
        )
    return tuple(stage for stage in STAGES if stage in stages)
