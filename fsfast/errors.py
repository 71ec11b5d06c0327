"""The errors that fsfast raises on purpose; each message says what was wanted, what came, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# Of what other libraries say: enough to search for.
_BRIEF = 400


class FsfastError(Exception):
    """Base class of all errors below."""


class EngineError(FsfastError):
    """An engine cannot be trusted or used: missing, truncated, altered, too new, or malformed."""


class ImageError(FsfastError, ValueError):
    """An input is not an image that can be put on the engine's grid without guessing."""


class BackendUnavailable(FsfastError, ImportError):
    """A back end was asked for that cannot run on this machine; the message says why."""


class CertificateError(FsfastError, ValueError):
    """A certificate file is malformed, or does not belong to the engine or the image at hand."""


class CertificateAltered(CertificateError):
    """What a certificate file states does not follow from what it contains."""


class CheckpointError(FsfastError, ValueError):
    """Weights cannot be loaded: missing, damaged, not weights alone, or not those of the network at hand."""


class ServerError(FsfastError):
    """A server did not answer, refused a request, or answered with something else; errors of images and certificates
    keep their own classes.

    Attributes:
        status: of HTTP, or None where no answer came.
        kind: the server's name for the error, as "QueueFull"; "" where it gave none.
        request_id: what the server's log calls the request; "" where no answer came.
        retry_after: seconds after which the server wants to be asked again, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.request_id, self.retry_after = status, kind, request_id, retry_after


class ReplicasDiffer(ServerError):
    """Two answers under one address come from different functions: replicas with other engines, options or versions."""


def printable(text: str, keep: str = "\n\t") -> str:
    """Return text without characters that steer a terminal or turn its direction; they become \\uXXXX.

    Names in files and of files are other people's. Those in `keep` stay.
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the one that is probably meant, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def brief(error: object) -> str:
    """Return what another library says, in one line of sensible length."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"
