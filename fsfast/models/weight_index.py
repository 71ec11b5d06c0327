"""What stands beside weights, as far as it can be read without torch: indexes of shards, settings, names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsfast.errors import CheckpointError
from fsfast.file_kind import HEAD_BYTES, recognise
from fsfast.strict_json import parse_json

INDEX_SUFFIX = ".index.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_MAX_JSON_BYTES = 64 << 20
_MAX_NAME = 500


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file beside weights.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= _MAX_JSON_BYTES else b"too large"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror or error}") from None
    refuse_text(path, content)
    try:
        record = parse_json(content)
        if not isinstance(record, dict):
            raise ValueError(f"wanted an object, got {type(record).__name__}")
    except ValueError as error:
        raise CheckpointError(f"{path}: not a JSON file to read: {error}; download it again") from None
    return record


def weight_map(index: Path) -> dict[str, Path]:
    """Return tensor → shard of an index; shards stand beside it and nowhere else.

    Raises:
        CheckpointError: as `read_json`, or it is no index, or points elsewhere.
    """
    record = read_json(index)
    places = record.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f"{index}: wanted an index of shards with a weight_map, got {sorted(record)[:5]}"
        )
    check_names(index, places)
    for name, shard in places.items():
        plain = isinstance(shard, str) and shard.endswith(WEIGHT_SUFFIXES) and shard.isprintable()
        if not plain or set(shard) & set("/\\:"):
            raise CheckpointError(
                f"{index}: wanted the name of a weights file beside the index for {name}, got {shard!r}; "
                "an index that points elsewhere is not used"
            )
    return {name: index.parent / shard for name, shard in places.items()}


def check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse names of tensors that could not be shown in a message; raises CheckpointError."""
    for name in names:
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise CheckpointError(
                f"{path}: wanted printable names of at most {_MAX_NAME} characters, got {name[:40]!r}; "
                "the file is damaged"
            )


def refuse_text(path: Path, head: bytes) -> None:
    """Refuse what downloads and clones leave in the place of a file.

    Args:
        path: of the file.
        head: its first bytes.

    Raises:
        CheckpointError: a pointer of git-lfs, a web page, or nothing.
    """
    kind = recognise(head[:HEAD_BYTES])
    if kind is not None and kind.remedy:
        raise CheckpointError(f"{path}: this is {kind.what}; {kind.remedy}")
