"""The engine on disk: verify every byte before anything uses it; write whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsfast.errors import EngineError
from fsfast.kernels.tables import check_thresholds
from fsfast.manifest import SCHEMA_VERSION, FileEntry, Manifest, parse_manifest

MANIFEST = "engine.json"
SEAL = "engine.sha256"
MAX_MANIFEST_BYTES = 4 << 20
_BUILT_IN = Path(__file__).parent / "engines"
_CHUNK = 1 << 20
# StringStringEntryProto{key: "location", value: …} in a serialised ONNX graph: where external data lies.
_ONNX_LOCATION = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)


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
        if name not in self.manifest.files:
            raise EngineError(f"{self.path}: wanted a file of the engine, got {name!r}")
        return _read_verified(self.path, name, self.manifest.files[name])

    def graph(self, stage: str, precision: str) -> bytes:
        """Return the ONNX bytes of a stage, after checking that its weights lie in this engine's own file."""
        variant = self.manifest.stages[stage][precision]
        graph = self.read(variant.file)
        weights = self.manifest.weights[precision].encode()
        for match in _ONNX_LOCATION.finditer(graph):
            length = match.group(1)[0]
            if graph[match.end() : match.end() + length] != weights:
                raise EngineError(
                    f"{self.path}: {variant.file} points to weights outside {weights.decode()}; "
                    "do not use this engine"
                )
        return graph


def engine_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the directory of an engine: a built-in name ("demo") first, else a path ("./demo")."""
    built_in = _BUILT_IN / name_or_path
    if Path(name_or_path).name == os.fspath(name_or_path) and built_in.is_dir():
        return built_in
    path = Path(name_or_path)
    if not path.exists():
        names = ", ".join(sorted(p.name for p in _BUILT_IN.iterdir()))
        raise EngineError(
            f"wanted the directory of an engine or a built-in one ({names}), got {str(path)!r}, which does not exist"
        )
    return path


def load_engine(name_or_path: str | os.PathLike[str]) -> Engine:
    """Open an engine and verify all of it: seal, schema, file list, sizes, hashes, noise table.

    Args:
        name_or_path: a directory, or the name of a built-in engine.

    Raises:
        EngineError: anything is missing, truncated, altered, unknown, a link, or newer than this fsfast.
    """
    path = engine_path(name_or_path)
    if not path.is_dir():
        raise EngineError(f"wanted an engine, which is a directory; {path} is not one")
    record, digest = _read_manifest(path)
    try:
        manifest = parse_manifest(record)
    except ValueError as error:
        raise EngineError(f"{path}: {MANIFEST} is malformed: {error}") from None
    _check_listing(path, manifest)
    for name, entry in manifest.files.items():
        _verify(path, name, entry)
    return Engine(path, manifest, digest, _load_thresholds(path, manifest))


def save_engine(
    path: str | os.PathLike[str],
    record: Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    *,
    force: bool = False,
) -> str:
    """Write an engine to `path`, whole or not at all, and return its digest.

    Args:
        path: the directory to make.
        record: the manifest without `files`, which is filled in here.
        files: name → content, or name → path of a file to copy.
        force: replace an engine that stands there; anything else is never replaced.

    Raises:
        EngineError: something stands at `path`, or the result would not load.
    """
    path = Path(path)
    if path.exists() and not force:
        raise EngineError(f"{path} exists; pass --force (force=True) to replace it")
    if path.exists() and not (path / MANIFEST).is_file():
        raise EngineError(f"{path} is not an engine; it will not be replaced. Choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.parent / f".{path.name}.{secrets.token_hex(4)}.building"
    building.mkdir()
    try:
        digest = _write(building, dict(record), files)
        load_engine(building)
        _swap_in(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return digest


def _write(folder: Path, record: dict[str, Any], files: Mapping[str, bytes | Path]) -> str:
    listing = {}
    for name, content in files.items():
        target = folder / name
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        listing[name] = {"sha256": _sha256(target), "bytes": target.stat().st_size}
    record["files"] = dict(sorted(listing.items()))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    digest = hashlib.sha256(text).hexdigest()
    (folder / MANIFEST).write_bytes(text)
    (folder / SEAL).write_bytes(_seal(digest))
    for file in folder.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    return digest


def _swap_in(building: Path, path: Path) -> None:
    """Put `building` at `path`; an engine that stands there survives until the new one is in place."""
    old = building.with_suffix(".old")
    if path.exists():
        path.rename(old)
    try:
        building.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _seal(digest: str) -> bytes:
    """The content of engine.sha256: what `sha256sum -c` reads."""
    return f"{digest}  {MANIFEST}\n".encode()


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    for name in (MANIFEST, SEAL):
        _check_regular(path, name)
    size = (path / MANIFEST).stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise EngineError(f"{path}: {MANIFEST} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
    text = (path / MANIFEST).read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    if (path / SEAL).read_bytes() != _seal(digest):
        raise EngineError(f"{path}: {MANIFEST} or {SEAL} was altered (they disagree); get the engine again")
    try:
        record = json.loads(text)
        schema = record["schema"] if record["format"] == "fsfast-engine" else None
    except (ValueError, TypeError, KeyError, RecursionError):
        schema = None
    if schema is None:
        raise EngineError(f"{path}: {MANIFEST} is not the manifest of an fsfast engine")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise EngineError(
            f"{path}: the engine has schema version {schema}, this fsfast reads up to {SCHEMA_VERSION}; "
            "upgrade fsfast"
        )
    return record, digest


def _check_regular(path: Path, name: str) -> None:
    try:
        regular = (path / name).is_file() and not (path / name).is_symlink()
    except OSError:
        regular = False
    if not regular:
        what = "is a link or a folder" if os.path.lexists(path / name) else "is missing"
        raise EngineError(f"{path}: {name} {what}; an engine holds plain files only. Get the engine again")


def _check_listing(path: Path, manifest: Manifest) -> None:
    """Refuse links, folders, missing files and files that the manifest does not know."""
    known = {*manifest.files, MANIFEST, SEAL}
    if unknown := sorted(set(os.listdir(path)) - known):
        raise EngineError(
            f"{path}: unknown file {unknown[0]!r}; an engine holds what its manifest lists only"
        )
    for name in sorted(known):
        _check_regular(path, name)


def _check_size(path: Path, name: str, entry: FileEntry) -> None:
    size = (path / name).stat().st_size
    if size != entry.bytes:
        what = "truncated" if size < entry.bytes else "too long"
        raise EngineError(
            f"{path}: {name} is {what}: {size} bytes, wanted {entry.bytes}. Get the engine again"
        )


def _altered(path: Path, name: str) -> EngineError:
    return EngineError(f"{path}: {name} was altered (its sha256 differs). Get the engine again")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(path: Path, name: str, entry: FileEntry) -> None:
    _check_size(path, name, entry)
    if _sha256(path / name) != entry.sha256:
        raise _altered(path, name)


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    _check_regular(path, name)
    _check_size(path, name, entry)
    content = (path / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _altered(path, name)
    return content


def _load_thresholds(path: Path, manifest: Manifest) -> np.ndarray:
    content = _read_verified(path, manifest.noise_file, manifest.files[manifest.noise_file])
    try:
        thresholds = np.load(io.BytesIO(content), allow_pickle=False)
        check_thresholds(thresholds, manifest.sigma)
    except ValueError as error:
        raise EngineError(f"{path}: {manifest.noise_file}: {error}") from None
    return thresholds
