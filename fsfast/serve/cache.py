"""Features that were served before: in memory, and in a folder where one is given.

A key has the seed, which under a secret follows from the pixels: what is found is bit for bit what would be computed,
and a new secret finds nothing of an old one's.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache
from cachetools import LRUCache
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fsfast.errors import brief
from fsfast.runtime.function import Served

logger = logging.getLogger("fsfast.serve")


@dataclass(frozen=True)
class Key:
    """What features depend on.

    Attributes:
        function_id: of the function that computes them.
        grid_sha256: of the pixels on the grid.
        n0: samples.
        seed: of the serving noise.
    """

    function_id: str
    grid_sha256: str
    n0: int
    seed: int

    def __str__(self) -> str:
        return f"{self.function_id} {self.grid_sha256} {self.n0} {self.seed:016x}"


class Cache:
    """Keeps what was served; what was not asked for longest goes first. May be used from several threads at once.

    Args:
        memory: bytes of features in memory.
        folder: for those that shall outlive the process, or None. Nobody else may write there: its features are
            believed.
        disk: bytes of the folder.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, memory: int, folder: Path | None = None, disk: int = 1 << 30) -> None:
        self._memory: LRUCache[str, Served] = LRUCache(memory, getsizeof=_size)
        self._lock = threading.Lock()
        self._disk = None if folder is None else _opened(folder, disk)

    def get(self, key: Key) -> Served | None:
        """Return the features of one image, or None."""
        name = str(key)
        with self._lock:
            found = self._memory.get(name)
        if found is None and self._disk is not None:
            with _without_it():
                found = _unpacked(self._disk.get(name))
            if found is not None:
                self._remember(name, found)
        return found

    def put(self, key: Key, part: Served) -> None:
        """Keep the features of one image; those larger than the cache are not kept."""
        name = str(key)
        self._remember(name, part)
        if self._disk is not None:
            with _without_it():
                self._disk.set(name, save({"features": part.features, "unit": part.unit}))

    def close(self) -> None:
        """Close the folder's files."""
        if self._disk is not None:
            self._disk.close()

    def _remember(self, name: str, part: Served) -> None:
        with self._lock:
            if _size(part) <= self._memory.maxsize:
                self._memory[name] = part


@contextmanager
def _without_it() -> Iterator[None]:
    """Go on where the folder cannot be used: it is full, or somebody took it away."""
    try:
        yield
    except (OSError, sqlite3.Error, diskcache.Timeout) as error:
        logger.warning("the cache's folder cannot be used: %s", brief(error))


class _Bytes(diskcache.Disk):
    """Values that are bytes alone: others would be unpickled."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        return None if mode == diskcache.core.MODE_PICKLE else super().fetch(mode, filename, value, read)


def _opened(folder: Path, size: int) -> diskcache.Cache:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return diskcache.Cache(
            folder,
            disk=_Bytes,
            size_limit=size,
            eviction_policy="least-recently-used",
            disk_min_file_size=1 << 14,
        )
    except sqlite3.Error as error:
        raise OSError(f"wanted a folder for the cache, {folder} cannot be used: {error}; empty it") from error


def _unpacked(content: object) -> Served | None:
    """Return the features in an entry; one that is none counts as absent."""
    if not isinstance(content, bytes):
        return None
    try:
        arrays = load(content)
        return Served(arrays["features"], arrays["unit"], None)
    except (SafetensorError, KeyError):
        return None


def _size(part: Served) -> int:
    return int(part.features.nbytes + part.unit.nbytes)
