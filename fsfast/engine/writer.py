"""Write an engine: into a temporary folder, checked as a reader would, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsfast.engine.engine import load_engine
from fsfast.engine.seal import MANIFEST, SEAL, seal
from fsfast.errors import EngineError
from fsfast.files import exchange, file_sha256


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
        EngineError: as `check_target`, or the result would not load.
    """
    path = Path(path)
    check_target(path, force)
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


def check_target(path: str | os.PathLike[str], force: bool) -> None:
    """Raise unless `save_engine` may write to `path`; asked before the minutes that an export may take.

    Args:
        path: the directory to make.
        force: an engine that stands there may be replaced; anything else never.

    Raises:
        EngineError: something stands at `path` that may not be replaced.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        raise EngineError(f"{path} is a link; it will not be replaced. Give the path that it leads to")
    if not force:
        raise EngineError(f"{path} exists; pass --force (force=True) to replace it")
    if not (path / MANIFEST).is_file():
        raise EngineError(f"{path} is not an engine; it will not be replaced. Choose another path")


def _write(folder: Path, record: dict[str, Any], files: Mapping[str, bytes | Path]) -> str:
    listing = {}
    for name, content in files.items():
        target = folder / name
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        listing[name] = {"sha256": file_sha256(target), "bytes": target.stat().st_size}
    record["files"] = dict(sorted(listing.items()))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    digest = hashlib.sha256(text).hexdigest()
    (folder / MANIFEST).write_bytes(text)
    (folder / SEAL).write_bytes(seal(digest))
    for file in folder.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    _sync_folder(folder)
    return digest


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries last through a power cut."""
    # Windows cannot open folders; its file systems keep renames in order.
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap_in(building: Path, path: Path) -> None:
    """Put `building` at `path`; an engine that stands there survives until the new one is in place."""
    if path.exists() and exchange(building, path):
        # The caller removes what stands at `building` now: the old engine, once the new one's name is on the disk.
        _sync_folder(path.parent)
        return
    old = building.with_suffix(".old")
    if path.exists():
        path.rename(old)
    try:
        building.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    # The old engine goes only once the new one's name is on the disk.
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)
