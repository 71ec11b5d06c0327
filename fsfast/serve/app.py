"""The application: every protocol's routes, and what all requests pass on their way."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsfast._version import __version__
from fsfast.errors import FsfastError
from fsfast.serve import certificates, oip, openai, samples
from fsfast.serve.errors import ClientLeft, QueueFull, Refusal, RequestError
from fsfast.serve.exchange import facts, in_shape, refused, service_of
from fsfast.serve.keys import Keys
from fsfast.serve.logs import REQUEST_ID
from fsfast.serve.pages import add_pages
from fsfast.serve.remote import Remote
from fsfast.serve.service import Service

logger = logging.getLogger("fsfast.serve")
access = logging.getLogger("fsfast.serve.access")
# Who watches a server must see it when it is full.
_ALWAYS = ("/v2/health/live", "/v2/health/ready", "/metrics")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def make_app(
    service: Service,
    keys: Keys | None = None,
    remote: Remote | None = None,
    failed: Callable[[BaseException], object] | None = None,
    beside: AbstractAsyncContextManager[object] | None = None,
) -> FastAPI:
    """Return the application of a server. It opens the engines while it answers already that it is not ready.

    Args:
        service: the engines.
        keys: who may ask; None: everybody.
        remote: fetches images that are named by URL; None: they are refused.
        failed: is told why the engines cannot be opened.
        beside: entered at the start, and left before the engines are closed: another protocol.
    """

    def started(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and failed is not None:
            failed(error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())
        starting.add_done_callback(started)
        try:
            async with beside or nullcontext():
                yield
        finally:
            starting.cancel()
            await asyncio.wait((starting,))
            await service.close()

    app = FastAPI(
        title="fsfast",
        version=__version__,
        summary="Smoothed vision features, and certificates about them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.keys, app.state.remote = service, keys or Keys(), remote
    for protocol in (oip, openai, certificates, samples):
        app.include_router(protocol.router)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    add_pages(app)
    app.add_middleware(Passage, service=service)
    for kind in (FsfastError, ValueError):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(HTTPException, _no_such_route)
    return app


async def _metrics(request: Request) -> Response:
    metrics = service_of(request).metrics
    return Response(metrics.text(), media_type=metrics.content_type)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail}; /docs has the routes of this server"
    content = {"error": text, "type": "RequestError", "request_id": facts(request)["request_id"]}
    return in_shape(request, error.status_code, content)


class Passage:
    """What all requests pass: they get an id, are counted and logged, and no fault is left without an answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        about: dict[str, Any] = {
            "request_id": _id_of(scope),
            "method": scope["method"],
            "path": scope["path"],
        }
        scope["fsfast"] = about
        REQUEST_ID.set(about["request_id"])

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", about["request_id"].encode())]
            await send(message)

        self._under_way += 1
        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except Exception as error:
            if not isinstance(error, Refusal):
                logger.exception("request %s failed", about["request_id"])
            if status:
                # Too late for another answer: the connection is cut.
                raise
            answer = refused(Request(scope), error)
            answer.headers["connection"] = "close"
            await answer(scope, receive, sending)
        finally:
            self._under_way -= 1
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")
            # Who left before the answer began has none.
            about |= {"status": status or ClientLeft.status, "seconds": round(seconds, 6)}
            self._service.metrics.requests.labels("http", route, about["status"]).inc()
            self._service.metrics.seconds.labels("http", route).observe(seconds)
            level = logging.DEBUG if scope["path"] in _ALWAYS else logging.INFO
            access.log(level, "request", extra={"facts": about})

    def _check(self, scope: Scope) -> None:
        """Refuse what is not even to be read; raises QueueFull, RequestError."""
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            # Another reader of the same bytes may see another request's end.
            raise RequestError("wanted one of content-length and transfer-encoding, got both")
        most = self._service.limits.max_requests
        if self._under_way > most and scope["path"] not in _ALWAYS:
            raise QueueFull(f"{most} requests are under way; ask again later", 1.0)


def _id_of(scope: Scope) -> str:
    """Return the id that a client gave its request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(found := value.decode("latin-1")):
            return found
    return os.urandom(16).hex()
