"""Plans live in a folder outside the engine; none is used before its bytes are hashed again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fsfast.errors import BackendUnavailable, EngineError
from fsfast.files import cache_folder, write_whole
from fsfast.strict_json import parse_json

SCHEMA = 1

logger = logging.getLogger("fsfast")


@dataclass(frozen=True)
class PlanKey:
    """Everything that decides a plan.

    Attributes:
        engine_digest: sha256 of the engine's manifest, hex; it fixes the graph and the weights.
        stage, precision: which graph.
        micro_batch: M.
        library: name and version of who builds.
        target: "ahead-of-time", or the compute capability and the name of the GPU that the plan is built on.
        options: as `building.OPTIONS`.
    """

    engine_digest: str
    stage: str
    precision: str
    micro_batch: int
    library: str
    target: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the plan's files: sha256 over all fields, hex."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()

    @property
    def fields(self) -> dict[str, Any]:
        """The fields as JSON writes them."""
        return {**asdict(self), "options": list(self.options)}


@dataclass(frozen=True)
class Plan:
    """A plan whose bytes have just been hashed.

    Attributes:
        content: what the library's runtime deserialises.
        sha256: of the content, hex.
        layers: layers of the network before the library fused them.
        seconds: how long the build took.
        peak_bytes: the most memory that the building process held, 0 where that is unknown.
        built: whether it was built for this call.
    """

    content: bytes
    sha256: str
    layers: int
    seconds: float
    peak_bytes: int
    built: bool = False


# Writes a plan to a path; returns its `sha256`, `bytes`, `layers`, `seconds` and `peak_bytes`.
Builder = Callable[[Path], dict[str, Any]]


def plan_folder() -> Path:
    """Return the folder of plans in the user's cache."""
    return cache_folder() / "plans"


def plan_files(folder: Path, key: PlanKey) -> tuple[Path, Path]:
    """Return where a plan and its record lie; the build log lies beside them and ends in .log."""
    return folder / f"{key.name}.plan", folder / f"{key.name}.json"


def load_plan(folder: Path, key: PlanKey, build: Builder, *, rebuild: bool = False) -> Plan:
    """Return a plan from the folder; it is built where it is missing or damaged.

    Args:
        folder: where plans live; made if it is missing.
        key: which plan.
        build: writes the plan; called by one process at a time.
        rebuild: build even where a good plan lies.

    Raises:
        BackendUnavailable: the folder cannot be used, or others may write to it.
        EngineError: a plan that was just written reads differently.
        Exception: whatever `build` raises.
    """
    _prepare(folder)
    plan = None if rebuild else read_plan(folder, key)
    if plan is not None:
        return plan
    with _alone(folder):
        # Another process may have built it while this one waited.
        plan = None if rebuild else read_plan(folder, key, quiet=True)
        if plan is not None:
            return plan
        path, record = plan_files(folder, key)
        entry = build(path)
        # Until the record stands, an older one does not fit the new plan: it counts as damaged.
        text = json.dumps({"format": "fsfast-plan", "schema": SCHEMA, "key": key.fields, **entry}, indent=1)
        write_whole(record, text.encode())
        plan = read_plan(folder, key, quiet=True)
    if plan is None:
        raise EngineError(f"{path} was written and reads differently; look after the disk")
    return replace(plan, built=True)


def read_plan(folder: Path, key: PlanKey, *, quiet: bool = False) -> Plan | None:
    """Return a plan if its bytes are those that were hashed when it was built.

    Args:
        folder: where plans live.
        key: which plan.
        quiet: do not log that it is damaged.

    Returns:
        The plan, or None where it is missing or damaged.
    """
    path, record = plan_files(folder, key)
    if not record.exists():
        return None
    try:
        return _read_verified(path, record, key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not quiet:
            logger.warning("the plan %s is damaged (%s); building it again", path, error)
        return None


def _read_verified(path: Path, record: Path, key: PlanKey) -> Plan:
    entry = parse_json(record.read_bytes())
    if (entry["format"], entry["schema"], entry["key"]) != ("fsfast-plan", SCHEMA, key.fields):
        raise ValueError("its record belongs to another plan")
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(f"{path.stat().st_size} bytes, wanted {entry['bytes']}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError("its sha256 differs")
    layers, peak = int(entry["layers"]), int(entry["peak_bytes"])
    return Plan(content, entry["sha256"], layers, float(entry["seconds"]), peak)


def _prepare(folder: Path) -> None:
    """Make the folder; plans hold machine code, so nobody else may write to it, its group neither."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise BackendUnavailable(
            f"wanted a folder for plans, {folder} cannot be used ({error.strerror}); set FSFAST_CACHE"
        ) from None
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendUnavailable(
            f"wanted a folder for plans that only you can write to, others can write to {folder}: plans hold "
            "machine code; chmod 700, or set FSFAST_CACHE"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time build: a build may need most of the memory."""
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BackendUnavailable(
            f"a plan must be built, and {folder} cannot be written ({error.strerror}); set FSFAST_CACHE"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        # Gives the lock back, too; so does the end of the process.
        os.close(handle)
