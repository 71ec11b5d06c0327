"""Who may ask: API keys from a file, each with a name, so that they can be replaced one after the other."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from fsfast.serve.errors import NotAllowed, NotAuthorised

_RIGHTS = ("admin", "seeds")
_HASHED = "sha256:"
_LEAST = 16


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: of the key, or the address where there are no keys; callers take turns by it.
        admin: may load and unload models.
        seeds: may choose seeds, to replay.
    """

    name: str
    admin: bool = False
    seeds: bool = False

    def require(self, right: str) -> None:
        """Refuse what the caller may not do; raises NotAllowed."""
        if not getattr(self, right):
            raise NotAllowed(
                f"wanted a key with the right {right!r}, {self.name} has not; the server's keys file gives it"
                if right == "admin"
                else f"seeds derive from the server's secret: {self.name} may not choose one; "
                "start the server with --allow-seeds, or give the key the right 'seeds'"
            )


class Keys:
    """The keys of a file: lines `NAME KEY [admin] [seeds]`, KEY in clear or as sha256:HEX; # begins a comment.

    Args:
        path: of the file; None: everybody may ask.
        seeds: whether everybody may choose seeds.

    Raises:
        ValueError: a line is off; it names the line, and never a key.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, seeds: bool = False) -> None:
        self._path = path
        self._seeds = seeds
        self._callers: dict[bytes, Caller] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again; where it cannot be used, the keys of before stay, and the error is raised."""
        if self._path is not None:
            self._callers = _parsed(
                Path(self._path).read_text(encoding="utf-8"), str(self._path), self._seeds
            )

    def caller(self, key: str | None, address: str) -> Caller:
        """Return who asks.

        Args:
            key: that came with the request.
            address: from which it came.

        Raises:
            NotAuthorised: the key is missing or unknown.
        """
        if self._path is None:
            return Caller(address, seeds=self._seeds)
        if not key:
            raise NotAuthorised("wanted an API key: send it as 'Authorization: Bearer KEY'")
        digest, found = hashlib.sha256(key.encode()).digest(), None
        for known, caller in self._callers.items():
            # All are compared, in constant time each.
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise NotAuthorised("wanted a known API key, got another one")
        return found


def presented(headers: dict[str, str]) -> str | None:
    """Return the key among headers with lower-case names: a bearer token, or x-api-key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


def _parsed(text: str, path: str, seeds: bool) -> dict[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, *rest = words
        if not rest or any(right not in _RIGHTS for right in rest[1:]):
            raise ValueError(f"{path}, line {number}: wanted NAME KEY [admin] [seeds]")
        digest = _digest(rest[0])
        if digest is None:
            raise ValueError(
                f"{path}, line {number}: wanted a key of at least {_LEAST} characters, or sha256: and 64 hex digits"
            )
        callers[digest] = Caller(name, "admin" in rest, seeds or "seeds" in rest)
    if not callers:
        raise ValueError(f"{path}: wanted at least one key, a line NAME KEY")
    return callers


def _digest(key: str) -> bytes | None:
    if not key.startswith(_HASHED):
        return hashlib.sha256(key.encode()).digest() if len(key) >= _LEAST else None
    try:
        digest = bytes.fromhex(key.removeprefix(_HASHED))
    except ValueError:
        return None
    return digest if len(digest) == 32 else None
