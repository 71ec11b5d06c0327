"""A checkpoint as one set of names: a file, an index of shards, or a directory that holds either."""

from __future__ import annotations

import os
from collections.abc import Callable, KeysView
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from fsfast.errors import CheckpointError
from fsfast.files import file_sha256
from fsfast.models.averages import Choice, Weights, averaged, check_weights, part_of, pick
from fsfast.models.checkpoints.files import TensorFile, as_float32, open_tensors
from fsfast.models.weight_index import INDEX_SUFFIX, WEIGHT_SUFFIXES, check_names, read_json, weight_map

# As the Hub has them; safetensors first, then in the order of transformers.
_IN_A_DIRECTORY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
T = TypeVar("T")


@dataclass(frozen=True)
class ReadFile:
    """A file that a network was read from.

    Attributes:
        name: without its folder.
        sha256: of its content, hex.
        bytes: its size.
    """

    name: str
    sha256: str
    bytes: int


class Checkpoint:
    """Names at once, shapes and values when they are asked for: shards that nobody needs are never opened.

    Args:
        path: a weights file, an index (`….index.json`), or a directory with one of them.
        weights: which of raw and averaged ones are meant where it holds both.

    Attributes:
        choice: of its state dicts.

    Raises:
        CheckpointError: none of these, not the weights that are meant, or as `open_tensors`.
        ValueError: weights are none of Weights.
    """

    def __init__(self, path: str | os.PathLike[str], weights: Weights | None = None) -> None:
        check_weights(weights)
        self.path = Path(path)
        self._weights = weights
        self._stats: dict[Path, os.stat_result] = {}
        self._open: dict[Path, TensorFile] = {}
        self._place: dict[str, Path] = {}
        # Name → name in the files.
        self._stored: dict[str, str] = {}
        self.dtypes: set[str] = set()
        main, self._file_choice = _main_file(self.path, weights)
        # Beside a file that was named alone, other files may belong to other models.
        self._folder = main.parent if self.path.is_dir() or main.name.endswith(INDEX_SUFFIX) else None
        if main.name.endswith(INDEX_SUFFIX):
            self._place = self._noted(main, weight_map)
            self._choose()
        else:
            self._open_file(main)

    @property
    def names(self) -> KeysView[str]:
        """Names of all tensors: those in the index and those in the files opened so far."""
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading its values.

        Raises:
            CheckpointError: its shard is missing, does not hold it, or as `open_tensors`.
        """
        return self._file(name).shape(self._stored[name])

    def dtype(self, name: str) -> str:
        """Type of a tensor as torch calls it, without reading its values; raises as `shape`."""
        return self._file(name).dtype(self._stored[name])

    def read(self, name: str) -> Tensor:
        """Values of a tensor, float32 in memory of their own.

        Raises:
            CheckpointError: as `shape`, or the values are no finite floating-point numbers.
        """
        stored = self._stored[name]
        tensor = self._file(name).read(stored)
        self.dtypes.add(str(tensor.dtype).removeprefix("torch."))
        return as_float32(tensor, stored, self._place[stored])

    def settings(self, name: str) -> dict[str, Any] | None:
        """A JSON file beside the weights, None without one; read only for a directory or an index.

        Raises:
            CheckpointError: it is not a JSON object.
        """
        if self._folder is None or not (self._folder / name).is_file():
            return None
        return self._noted(self._folder / name, read_json)

    def files(self) -> tuple[ReadFile, ...]:
        """Hash the files that were opened.

        Raises:
            CheckpointError: one of them changed since it was opened.
        """
        read = []
        for path, before in self._stats.items():
            digest = file_sha256(path)
            after = path.stat()
            if _identity(before) != _identity(after):
                raise CheckpointError(f"{path}: the file changed while it was read; try again")
            read.append(ReadFile(path.name, digest, after.st_size))
        return tuple(read)

    def _file(self, name: str) -> TensorFile:
        stored = self._stored[name]
        path = self._place[stored]
        if path not in self._open:
            if not path.is_file():
                raise CheckpointError(
                    f"{self.path}: the shard {path.name} is missing, which holds {stored}; download it, too"
                )
            self._open_file(path)
        if stored not in self._open[path].names:
            raise CheckpointError(
                f"{path}: the index says that {stored} is in this file, and it is not; download both again"
            )
        return self._open[path]

    def _open_file(self, path: Path) -> None:
        before = path.stat()
        file = open_tensors(path, self._weights)
        if not file.names:
            raise CheckpointError(f"{path}: wanted weights, got a file without tensors; get it again")
        self._stats[path], self._open[path] = before, file
        check_names(path, file.names)
        for name in sorted(file.names):
            self._place.setdefault(name, path)
        self._choose()

    def _choose(self) -> None:
        outer = next((file.choice for file in self._open.values() if file.choice.key), Choice())
        outer = outer.within(self._file_choice)
        part, self.choice = part_of(self._place, self.path, self._weights, outer)
        self._stored |= part
        self.choice.check(self.path, self._weights)

    def _noted(self, path: Path, read: Callable[[Path], T]) -> T:
        """Read a file, and remember how it stood when it was."""
        before = path.stat()
        content = read(path)
        self._stats[path] = before
        return content


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _main_file(path: Path, weights: Weights | None) -> tuple[Path, Choice]:
    """The weights file or index that a path means, and of a directory's raw and averaged ones which it is."""
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"wanted a weights file, an index or a directory, found none at {path}")
        return path, Choice()
    others = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    for name in _IN_A_DIRECTORY:
        if (path / name).is_file():
            kinds: dict[str, Weights | None] = {name: "raw"}
            kinds |= dict.fromkeys((file.name for file in others if averaged(file)), "ema")
            choice = pick(kinds, path, weights)
            # Without others the name says nothing.
            return path / choice.key, choice if choice.beside else Choice()
    if len(others) != 1:
        found = ", ".join(file.name for file in others[:3]) or "no weights"
        raise CheckpointError(
            f"{path}: wanted one weights file in the directory, found {found}{', …' if len(others) > 3 else ''}; "
            "give the path of the file"
        )
    return others[0], Choice()
