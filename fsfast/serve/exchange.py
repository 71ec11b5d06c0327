"""One exchange over HTTP: the body within limits, the caller, an answer that stops where its client leaves."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from fsfast.errors import FsfastError, brief, did_you_mean
from fsfast.serve.errors import BodyTimeout, ClientLeft, RequestError, TooLarge, status_of
from fsfast.serve.keys import Caller, Keys, presented
from fsfast.serve.service import Service
from fsfast.serve.timeouts import timeout
from fsfast.strict_json import parse_json

T = TypeVar("T")
# Bytes of input that are worked on where everybody waits.
_LARGE = 1 << 18
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Body(BaseModel):
    """The base of what requests hold as JSON: numbers are numbers, and what is not known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


B = TypeVar("B", bound=Body)


def service_of(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


async def caller_of(request: Request) -> Caller:
    """Return who asks; raises NotAuthorised. Not plain, or FastAPI would call it on another thread."""
    keys: Keys = request.app.state.keys
    address = request.client.host if request.client else "local"
    caller = keys.caller(presented(dict(request.headers)), address)
    facts(request)["caller"] = caller.name
    return caller


Asking = Annotated[Caller, Depends(caller_of)]


def facts(request: Request) -> dict[str, Any]:
    """Return what the log says about a request: to be added to."""
    found: dict[str, Any] = request.scope["fsfast"]
    return found


async def read_body(request: Request) -> bytes:
    """Return the body of a request, unpacked.

    Raises:
        TooLarge: it has too many bytes, packed or unpacked.
        BodyTimeout: it did not come in time.
        RequestError: it is packed otherwise than it says.
    """
    limits = service_of(request).limits
    try:
        async with timeout(limits.body_seconds):
            body = await _received(request, limits.max_body)
    except asyncio.TimeoutError:
        raise BodyTimeout(
            f"the body did not come within {limits.body_seconds:g} seconds; send it again"
        ) from None
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW:
        raise RequestError(f"wanted a body packed by gzip or deflate, or not at all, got {encoding!r}")
    return await apart(len(body), _unpacked, body, encoding, limits.max_body)


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    unpacker = zlib.decompressobj(_WINDOW[encoding])
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(f"wanted a body packed by {encoding}: {brief(error)}") from None
    if len(unpacked) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"wanted a body packed by {encoding}, got one that is cut off, or more than one")
    return unpacked


async def _received(request: Request, most: int) -> bytes:
    if int(request.headers.get("content-length", 0)) > most:
        raise _too_large(most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"wanted a body of at most {most:,} bytes, got more; send fewer or smaller images")


def parsed(content: bytes, kind: type[B]) -> B:
    """Return a JSON document as a request of some kind; raises RequestError."""
    try:
        return kind.model_validate(parse_json(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        near = did_you_mean(place, kind.model_fields) if first["type"] == "extra_forbidden" else ""
        raise RequestError(f"{place}: {brief(first['msg'])}{near}") from None
    except ValueError as error:
        raise RequestError(f"wanted a JSON document, got something else: {brief(error)}") from None


def described(kind: type[Body]) -> dict[str, Any]:
    """Return what OpenAPI says about a body that is parsed here."""
    schema = kind.model_json_schema(ref_template=f"#/components/schemas/{kind.__name__}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def apart(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of some work, on another thread where its input is large, or nobody else would be heard.

    Args:
        size: bytes of the input.
        work: to be done.
        arguments: of it.
    """
    return work(*arguments) if size <= _LARGE else await asyncio.to_thread(work, *arguments)


async def read_json(request: Request, kind: type[B]) -> B:
    """Return the body of a request as one of some kind; errors as `read_body` and `parsed`."""
    body = await read_body(request)
    return await apart(len(body), parsed, body, kind)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work; a client that leaves cancels it, and ClientLeft is raised."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft("the client left before the answer was ready")
        return task.result()
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.wait((task, left))


async def gone(request: Request) -> None:
    """Wait until the client leaves; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refused(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed."""
    status, content = error_content(request, error)
    return in_shape(request, status, content, getattr(error, "retry_after", None))


def error_content(request: Request, error: Exception) -> tuple[int, dict[str, str]]:
    """Count an error and note it for the log; return its status, and what is said of it."""
    service_of(request).metrics.failed(error)
    facts(request)["error"] = type(error).__name__
    request_id = facts(request)["request_id"]
    content = {"error": text_of(error, request_id), "type": type(error).__name__, "request_id": request_id}
    return status_of(error), content


def text_of(error: Exception, request_id: str) -> str:
    """Return what a client is told of an error."""
    if not isinstance(error, FsfastError) and status_of(error) == 500:
        # What other libraries say may hold what is not for clients.
        return f"the server failed; its log says why under the id {request_id}"
    return str(error)


def in_shape(
    request: Request, status: int, content: dict[str, str], retry_after: float | None = None
) -> Response:
    """Return an error as the protocol of the path has it."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        # The rest of the body is not read.
        headers["connection"] = "close"
    if request.url.path in ("/v1/embeddings", "/v1/models"):
        error = {"message": content["error"], "type": content["type"], "param": None, "code": status}
        return JSONResponse({"error": error}, status, headers)
    return JSONResponse(content, status, headers)
