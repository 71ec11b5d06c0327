"""Engines as somebody would forge them: changed, with every hash right again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fsfast.engine.engine import MANIFEST, SEAL


def rewrite(path: Path, change) -> None:
    """Change the manifest and seal it again, as somebody would who forges an engine."""
    record = json.loads((path / MANIFEST).read_text())
    change(record)
    text = json.dumps(record).encode()
    (path / MANIFEST).write_bytes(text)
    (path / SEAL).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")


def replace_file(path: Path, name: str, content: bytes) -> None:
    """Put other content into an engine, with a hash and a seal that agree."""
    (path / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(path, lambda record: record["files"].update({name: entry}))


def as_bfloat16(path: Path) -> None:
    """Declare a bfloat16 variant of a copied engine."""

    def change(record):
        for variants in record["stages"].values():
            variants["bfloat16"] = {**variants["float32"], "arithmetic": "bfloat16", "tolerance": 0.1}
        record["weights"]["bfloat16"] = record["weights"]["float32"]

    rewrite(path, change)
