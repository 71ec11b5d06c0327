"""engine.json and its seal: what an engine says of itself, known by one digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fsfast.engine.manifest import SCHEMA_VERSION, Manifest, parse_manifest
from fsfast.errors import EngineError, brief
from fsfast.strict_json import parse_json

MANIFEST = "engine.json"
SEAL = "engine.sha256"
MAX_MANIFEST_BYTES = 4 << 20


def seal(digest: str) -> bytes:
    """The content of engine.sha256: what `sha256sum -c` reads."""
    return f"{digest}  {MANIFEST}\n".encode()


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return what the engine in a folder says of itself, and its digest; no other file is looked at.

    Raises:
        EngineError: engine.json or its seal is missing, altered, malformed, a link, or newer than this fsfast.
    """
    for name in (MANIFEST, SEAL):
        check_regular(path, name)
    size = (path / MANIFEST).stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise EngineError(f"{path}: {MANIFEST} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
    text = (path / MANIFEST).read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    wanted = seal(digest)
    if (path / SEAL).stat().st_size != len(wanted) or (path / SEAL).read_bytes() != wanted:
        raise EngineError(f"{path}: {MANIFEST} or {SEAL} was altered (they disagree); get the engine again")
    try:
        record = parse_json(text)
        schema = record["schema"] if record["format"] == "fsfast-engine" else None
    except (ValueError, TypeError, KeyError):
        schema = None
    if schema is None:
        raise EngineError(f"{path}: {MANIFEST} is not the manifest of an fsfast engine")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise EngineError(
            f"{path}: the engine has schema version {schema}, this fsfast reads up to {SCHEMA_VERSION}; "
            "upgrade fsfast"
        )
    try:
        return parse_manifest(record), digest
    except ValueError as error:
        raise EngineError(f"{path}: {MANIFEST} is malformed: {brief(error)}") from None


def check_regular(path: Path, name: str) -> None:
    """Refuse a file of an engine that is missing, a link or a folder; raises EngineError."""
    try:
        regular = (path / name).is_file() and not (path / name).is_symlink()
    except OSError:
        regular = False
    if not regular:
        what = "is a link or a folder" if os.path.lexists(path / name) else "is missing"
        raise EngineError(f"{path}: {name} {what}; an engine holds plain files only. Get the engine again")
