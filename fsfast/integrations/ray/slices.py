"""The images of a data set in slices, the units of work that are done whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fsfast.errors import FsfastError, ImageError, brief
from fsfast.images.decoding import FORMATS
from fsfast.integrations.packages import host_package
from fsfast.integrations.ray.parquet_images import count_rows, rows_of

fsspec = host_package("fsspec", "ray")

PARQUET = ".parquet"
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Slice:
    """Some images of a data set.

    Attributes:
        number: of the slice, from 0.
        paths: of its images, or of one Parquet file.
        first, count: rows of the Parquet file; `first` is None for files of images.
    """

    number: int
    paths: tuple[str, ...]
    first: int | None
    count: int

    @property
    def name(self) -> str:
        """Of its files, without an ending."""
        return f"{self.number:06d}"

    def images(self, column: str) -> Iterator[tuple[str, bytes | FsfastError]]:
        """Yield name and content of every image, or why it cannot be read.

        Args:
            column: of a Parquet file, with files of images as bytes (or structs with "bytes", as data sets have them).

        Raises:
            OSError, ValueError: a Parquet file can no longer be read.
        """
        if self.first is not None:
            yield from rows_of(self.paths[0], self.first, self.count, column)
            return
        for path in self.paths:
            try:
                with fsspec.open(path, "rb") as file:
                    yield path, file.read()
            except (OSError, ValueError) as error:
                yield path, ImageError(f"{path} cannot be read: {brief(error)}")


def paths_of(images: Paths) -> list[str]:
    """Return the files that paths, URLs of fsspec, folders and patterns name, folders and patterns in order of names.

    Local ones are absolute: workers start in folders of their own.

    Raises:
        FsfastError: a folder or a pattern has none.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else images
    return [path for word in given for path in _files(os.fspath(word))]


def slices_of(paths: Iterable[str], images: int, column: str) -> list[Slice]:
    """Divide files into slices of at most `images` images; a Parquet file into slices of its own.

    One that cannot be read stands among the images, where it fails alone.

    Raises:
        FsfastError: a Parquet file has no such column.
    """
    found: list[Slice] = []
    waiting: list[str] = []

    def close() -> None:
        if waiting:
            found.append(Slice(len(found), tuple(waiting), None, len(waiting)))
            waiting.clear()

    for path in paths:
        rows = count_rows(path, column) if path.endswith(PARQUET) else None
        if rows is not None:
            close()
            for first in range(0, rows, images):
                found.append(Slice(len(found), (path,), first, min(images, rows - first)))
            continue
        waiting.append(path)
        if len(waiting) == images:
            close()
    close()
    return found


def digest_of(slices: Sequence[Slice]) -> str:
    """Return the sha256 of what the slices consist of, hex."""
    digest = hashlib.sha256()
    for each in slices:
        digest.update(repr((each.paths, each.first, each.count)).encode())
    return digest.hexdigest()


def _files(word: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(word)
    if system.isdir(path):
        return _images(word, system, system.find(path))
    if any(letter in path for letter in "*?[") and not system.exists(path):
        return _images(word, system, system.glob(path))
    # Reading it says whether it is there.
    return [path if _local(system) else word]


def _images(word: str, system: Any, found: Iterable[str]) -> list[str]:
    endings = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS} | {
        PARQUET
    }
    kept = sorted(
        path for path in found if os.path.splitext(path)[1].lower() in endings and not _hidden(path)
    )
    if not kept:
        raise FsfastError(f"wanted images or files ending in {PARQUET} in {word}, got none")
    return kept if _local(system) else [system.unstrip_protocol(path) for path in kept]


def _local(system: Any) -> bool:
    return "file" in system.protocol


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")
