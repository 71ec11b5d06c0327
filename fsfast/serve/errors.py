"""What a server refuses, each with its status of HTTP."""

from __future__ import annotations

import math

from fsfast.errors import FsfastError


class Refusal(FsfastError):
    """A request that the server does not carry out.

    Attributes:
        status: of HTTP.
    """

    status = 400


class RequestError(Refusal, ValueError):
    """The request is malformed, or asks for something that there is not."""


class UnknownModel(Refusal):
    """No model of this name is served."""

    status = 404


class NotAuthorised(Refusal):
    """The key is missing or unknown."""

    status = 401


class NotAllowed(Refusal):
    """The key, or the server's configuration, does not allow this."""

    status = 403


class BodyTimeout(Refusal):
    """The body of the request did not come in time."""

    status = 408


class TooLarge(Refusal):
    """The request is larger than this server takes."""

    status = 413


class NotCertified(Refusal):
    """The policy asks for a certified image, and this one is not."""

    status = 422


class QueueFull(Refusal):
    """The server has as much to do as it takes on.

    Attributes:
        retry_after: seconds after which there should be room.
    """

    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class ClientLeft(Refusal):
    """The client closed the connection before it was answered; the status is nginx's."""

    status = 499


class EngineFailed(Refusal):
    """The engine could not compute; the server's log says why."""

    status = 500


class Stopping(Refusal):
    """The server, or this model, is about to stop or is not ready yet."""

    status = 503


class AuditFailed(Refusal):
    """What was certified could not be written into the audit log, and is kept back."""

    status = 503


class DeadlineExceeded(Refusal):
    """The answer was not ready in time."""

    status = 504


def status_of(error: Exception) -> int:
    """Return the status of HTTP of an error: of what clients did wrong 4xx, of everything else 500."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, ValueError):
        return 400
    return 500
