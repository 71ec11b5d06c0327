"""An engine in a process of Ray: everywhere under the same secret, and the same function everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.engine.engine import built_in_name
from fsfast.errors import FsfastError, ReplicasDiffer

_SECRET = "FSFAST_SECRET"
# What of an engine's identity is compared, in the order in which it is told of.
IDENTITY = ("engine_digest", "function_id", "key_id")


def open_encoder(
    engine: str, options: Mapping[str, Any], secret_file: str | None = None, cpus: float = 1
) -> SmoothedEncoder:
    """Open an engine in a process of Ray.

    A process may end at any time, and another one does its work again: under one secret that gives the same bits.

    Args:
        engine: directory of the engine on this machine, or the name of a built-in one.
        options: of `SmoothedEncoder`.
        secret_file: of this machine; None: the environment's FSFAST_SECRET.
        cpus: that Ray gave to this process; so many threads unless `options` say otherwise.

    Raises:
        FsfastError: there is no secret.
        EngineError, BackendUnavailable, ValueError, TypeError: as `SmoothedEncoder`.
    """
    threads = {"threads": max(1, int(cpus))}
    return SmoothedEncoder(engine, secret=_secret(secret_file), **{**threads, **options})


def engine_everywhere(engine: str | os.PathLike[str]) -> str:
    """Return the name of an engine for processes that start in folders of their own."""
    return built_in_name(engine) or os.path.abspath(engine)


def identity(encoder: SmoothedEncoder) -> dict[str, str]:
    """Return what has to be the same in all processes; it may be published."""
    key_id = encoder.seeds.key_id
    assert key_id is not None, "opened under a secret"
    return dict(zip(IDENTITY, (encoder.engine_digest, encoder.function_id, key_id), strict=True))


def check_same(ours: Mapping[str, str], theirs: Mapping[str, str], whose: str) -> None:
    """Refuse to work beside others that compute something else.

    Args:
        ours: identity of this process.
        theirs: identity that is wanted, or some of it.
        whose: theirs, in words.

    Raises:
        ReplicasDiffer: they are not the same; it says in what.
    """
    for name in IDENTITY:
        if name in theirs and ours[name] != theirs[name]:
            raise ReplicasDiffer(
                f"wanted {name} {theirs[name]} as {whose}, this process on {os.uname().nodename} has {ours[name]}: "
                "features would depend on who computes them; give all machines the same " + _SAME_ON_ALL[name]
            )


_SAME_ON_ALL = {
    "engine_digest": "engine",
    "function_id": "versions, options and class of processor (`fsfast info ENGINE` shows what enters)",
    "key_id": f"secret ({_SECRET}, or the secret file)",
}


def _secret(file: str | None) -> bytes:
    secret = (
        os.fsencode(os.environ.get(_SECRET, "")) if file is None else Path(file).read_bytes().rstrip(b"\r\n")
    )
    if not secret:
        raise FsfastError(
            f"wanted a secret in {file or _SECRET}, got none: what is computed again, or by another process, must have "
            "the same noise; openssl rand -hex 32 makes one, the same for all machines"
        )
    return secret
