"""How a client reaches its server: the connection, when it asks again, and how long it waits before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from fsfast._version import __version__
from fsfast.client.calls import Calls
from fsfast.errors import ServerError, brief

# Too many requests; a gateway without a server, or a server that drains or starts.
_LATER = (429, 502, 503)
_LONGEST = 30.0
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
_back_off = wait_random_exponential(multiplier=0.25, max=_LONGEST)


class Connected(Generic[Http]):
    """What `Client` and `AsyncClient` have in common; arguments and errors are `Client`'s."""

    _kind: type[Http]

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        function_id: str | None = None,
        retries: int = 4,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self.url = url
        self._model, self._function_id = model, function_id
        self._calls: Calls | None = None
        self._persistence = persistence(retries)
        self._http: Http = self._kind(**connection(url, key, timeout), **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, model={self._model!r})"


def connection(url: str, key: str | None, timeout: float) -> dict[str, Any]:
    """Return the options of httpx's clients.

    Args:
        url: of the server.
        key: an API key, or None.
        timeout: seconds without a byte.

    Raises:
        ValueError: the address is none, or timeout is no positive number.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"wanted the address of a server, as http://localhost:8000, got {url!r}")
    if not timeout > 0:
        raise ValueError(f"wanted a timeout above 0 seconds, got {timeout!r}")
    headers = {"User-Agent": f"fsfast/{__version__}"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": url, "headers": headers, "timeout": timeout}


def persistence(retries: int) -> dict[str, Any]:
    """Return the arguments of tenacity's retrying for so many repetitions.

    All calls may be repeated: none changes anything on the server.

    Raises:
        ValueError: a negative number.
    """
    if retries < 0:
        raise ValueError(f"wanted retries ≥ 0, got {retries}")
    return {
        "stop": stop_after_attempt(retries + 1),
        "retry": retry_if_exception(_passes),
        "wait": _wait,
        "reraise": True,
    }


def _passes(error: BaseException) -> bool:
    """Whether an error may be gone when asked again; what took too long takes too long again."""
    if isinstance(error, ServerError):
        # A 500 of fsfast has a kind; one without is a proxy's, whose server ended under the request.
        return error.status in _LATER or (error.status == 500 and not error.kind)
    slow = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
    return isinstance(error, httpx.TransportError) and not slow


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ServerError) else None
    return max(_back_off(state), min(asked or 0.0, _LONGEST))


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn httpx's errors into a ServerError that names the server."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServerError(
            f"{url} did not answer in time ({brief(error) or type(error).__name__}); give the client a longer timeout"
        ) from error
    except httpx.HTTPError as error:
        raise ServerError(
            f"{url} cannot be reached: {brief(error) or type(error).__name__}; check that `fsfast serve` runs there"
        ) from error
