"""The engine on disk: every byte is verified before anything uses it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from fsfast.engine.graph_check import check_graph
from fsfast.engine.hub import SCHEME, fetched, pinned
from fsfast.engine.manifest import FileEntry, Manifest, StageVariant
from fsfast.engine.seal import MANIFEST, SEAL, check_regular, read_manifest
from fsfast.errors import EngineError, did_you_mean
from fsfast.file_kind import recognise_file
from fsfast.files import file_sha256
from fsfast.kernels.tables import check_thresholds, noise_reach

_Content = TypeVar("_Content", bytes, bytearray)
# A folder for each built-in engine.
BUILT_IN = Path(__file__).parents[1] / "assets" / "engines"
# NumPy pads a header to a multiple of 64 bytes; far more is not a noise table.
_MAX_NPY_HEADER = 4096


@dataclass(frozen=True)
class Engine:
    """A verified engine.

    Attributes:
        path: the directory.
        manifest: what engine.json says.
        digest: sha256 of engine.json, hex; it fixes every other file through the hashes inside.
        thresholds: [2K] uint64, the noise table.
    """

    path: Path
    manifest: Manifest
    digest: str
    thresholds: np.ndarray

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, hashed again on the way, so that nothing unverified is ever used.

        Raises:
            EngineError: the file is not part of the engine, or changed since the engine was loaded.
        """
        return _read_verified(self.path, name, self._entry(name))

    def buffer(self, name: str) -> bytearray:
        """Return what `read` returns in memory that can be written, which runtimes want to share it.

        Raises:
            EngineError: as `read`.
        """
        entry = self._entry(name)
        check_regular(self.path, name)
        _check_size(self.path, name, entry)
        content = bytearray(entry.bytes)
        with open(self.path / name, "rb") as handle:
            handle.readinto(content)
        return _with_hash(self.path, name, entry, content)

    def _entry(self, name: str) -> FileEntry:
        if name not in self.manifest.files:
            raise EngineError(f"{self.path}: wanted a file of the engine, got {name!r}")
        return self.manifest.files[name]

    def graph(self, stage: str, precision: str, rows: int = 1) -> bytes:
        """Return the ONNX bytes of a stage, after checking that it is a fixed function of this engine's own weights.

        Args:
            stage, precision: which graph.
            rows: M, as it will be run: budgets, and that rows do not enter each other, are checked for it.

        Raises:
            EngineError: the file changed since the engine was loaded, or `graph_check.check_graph` refuses it.
        """
        variant = self.manifest.stages[stage][precision]
        graph = self.read(variant.file)
        try:
            size = self.manifest.files[variant.weights].bytes
            check_graph(graph, variant.weights, rows=rows, weights_bytes=size)
        except ValueError as error:
            raise EngineError(f"{self.path}: {variant.file}: {error}; do not use this engine") from None
        return graph

    def stages(
        self, precision: str, names: Sequence[str], rows: int = 1
    ) -> Iterator[tuple[str, StageVariant, bytes, bytearray]]:
        """Yield name, variant, ONNX bytes and weights of stages; one file of weights is in memory at a time.

        Raises:
            EngineError: as `graph` and `buffer`.
        """
        held, weights = "", bytearray()
        for name in names:
            variant = self.manifest.stages[name][precision]
            if variant.weights != held:
                # Stages come in order: the file of an earlier one is no longer needed.
                held, weights = variant.weights, self.buffer(variant.weights)
            yield name, variant, self.graph(name, precision, rows), weights


def engine_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the directory of an engine: a built-in name ("demo") first, then one on the Hub, else a path ("./demo").

    Raises:
        TypeError: not a str or a path of strings.
        EngineError: nothing has this name, or it cannot be fetched.
        BackendUnavailable: fetching needs a package that is missing.
    """
    name = os.fspath(name_or_path) if isinstance(name_or_path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise TypeError(
            "wanted an engine as the name of a built-in one or the path of its directory (str or os.PathLike), "
            f'got {type(name_or_path).__name__}; write "demo" or "./my-engine"'
        )
    if name in (built_in := _built_in()):
        return BUILT_IN / name
    if name.startswith(SCHEME):
        return fetched(name)
    # An empty path would mean the current folder.
    if not name or not os.path.exists(name):
        raise EngineError(
            f"wanted the directory of an engine or a built-in one ({', '.join(built_in)}), got {name!r}, "
            f"which does not exist{did_you_mean(name, built_in)}"
        )
    return Path(name)


def built_in_name(name_or_path: str | os.PathLike[str]) -> str | None:
    """Return the name of a built-in engine if that is what is meant, else None."""
    name = os.fspath(name_or_path)
    return name if name in _built_in() else None


def engine_reference(name_or_path: str | os.PathLike[str], digest: str) -> str:
    """Return what opens an engine that was opened by `name_or_path` in other folders and processes, too.

    Args:
        name_or_path: as for `load_engine`.
        digest: of the engine; one on the Hub is pinned by it.
    """
    name = os.fspath(name_or_path)
    if name in _built_in():
        return name
    return pinned(name, digest) if name.startswith(SCHEME) else os.path.abspath(name)


def _built_in() -> list[str]:
    return [entry for entry in sorted(os.listdir(BUILT_IN)) if not entry.startswith(".")]


def load_engine(name_or_path: str | os.PathLike[str]) -> Engine:
    """Open an engine and verify all of it: seal, schema, file list, sizes, hashes, noise table.

    Args:
        name_or_path: a directory, the name of a built-in engine, or hf://owner/name[@revision][#digest].

    Raises:
        EngineError: anything is missing, truncated, altered, unknown, a link, or newer than this fsfast.
    """
    path = engine_path(name_or_path)
    if not path.is_dir():
        kind = recognise_file(path)
        remedy = f"; name its directory, {path.parent}" if path.name in (MANIFEST, SEAL) else ""
        raise EngineError(
            f"wanted an engine, which is a directory; {path} is {kind.what if kind else 'not one'}{remedy}"
        )
    try:
        return _load(path)
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error}") from error


def _load(path: Path) -> Engine:
    manifest, digest = read_manifest(path)
    _check_listing(path, manifest)
    for name, entry in manifest.files.items():
        _verify(path, name, entry)
    return Engine(path, manifest, digest, _load_thresholds(path, manifest))


def _check_listing(path: Path, manifest: Manifest) -> None:
    """Refuse links, folders, missing files and files that the manifest does not know."""
    known = {*manifest.files, MANIFEST, SEAL}
    if unknown := sorted(set(os.listdir(path)) - known):
        raise EngineError(
            f"{path}: unknown file {unknown[0]!r}; an engine holds what its manifest lists only"
        )
    for name in sorted(known):
        check_regular(path, name)


def _check_size(path: Path, name: str, entry: FileEntry) -> None:
    size = (path / name).stat().st_size
    if size != entry.bytes:
        what = "truncated" if size < entry.bytes else "too long"
        raise EngineError(
            f"{path}: {name} is {what}: {size} bytes, wanted {entry.bytes}. Get the engine again"
        )


def _altered(path: Path, name: str) -> EngineError:
    return EngineError(f"{path}: {name} was altered (its sha256 differs). Get the engine again")


def _verify(path: Path, name: str, entry: FileEntry) -> None:
    _check_size(path, name, entry)
    if file_sha256(path / name) != entry.sha256:
        raise _altered(path, name)


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    check_regular(path, name)
    _check_size(path, name, entry)
    return _with_hash(path, name, entry, (path / name).read_bytes())


def _with_hash(path: Path, name: str, entry: FileEntry, content: _Content) -> _Content:
    """Return the content of a file if it is what the manifest says."""
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _altered(path, name)
    return content


def _load_thresholds(path: Path, manifest: Manifest) -> np.ndarray:
    name = manifest.noise_file
    entry = manifest.files[name]
    try:
        table_bytes = 2 * noise_reach(manifest.sigma) * 8
        if not table_bytes < entry.bytes <= table_bytes + _MAX_NPY_HEADER:
            raise ValueError(
                f"wanted a header and {table_bytes} bytes for sigma = {manifest.sigma}, got {entry.bytes} bytes; "
                "export the engine again"
            )
        thresholds = np.lib.format.read_array(
            io.BytesIO(_read_verified(path, name, entry)), allow_pickle=False
        )
        check_thresholds(thresholds, manifest.sigma)
    except EngineError:
        raise
    # NumPy's reader raises whatever its parts do: EOFError, SyntaxError, MemoryError, …
    except Exception as error:
        raise EngineError(f"{path}: {name}: {error or type(error).__name__}") from None
    return thresholds
