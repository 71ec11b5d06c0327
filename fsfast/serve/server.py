"""The process: sockets, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import uvicorn

from fsfast.encoder import SmoothedEncoder
from fsfast.serve.app import make_app
from fsfast.serve.audit import AuditLog
from fsfast.serve.cache import Cache
from fsfast.serve.keys import Keys
from fsfast.serve.limits import Limits
from fsfast.serve.logs import logging_as_json
from fsfast.serve.models import Models
from fsfast.serve.patience import impatient
from fsfast.serve.policy import Policy
from fsfast.serve.remote import Remote
from fsfast.serve.service import Service

logger = logging.getLogger("fsfast.serve")

# Of the head of a request; h11 refuses longer ones.
_MAX_HEAD = 32 << 10
# Of a connection without a request: longer than clients and load balancers keep theirs (5 to 60 s), so that none sends
# a request just as it is closed here.
_KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True)
class Options:
    """How a server is to run.

    Attributes:
        engines: name → directory of an engine, or the name of a built-in one.
        opener: opens an engine.
        limits: of requests.
        keys: who may ask.
        policies: name → rule; "" for all others.
        remote: fetches images that are named by URL; None: they are refused.
        memory: bytes for all engines; None: no limit.
        host, port: to listen on.
        drain_seconds: from SIGTERM to the port's closing.
        tls: options of uvicorn.
        grpc_port: to listen on with gRPC; None: with HTTP alone.
        cache: of features; None: all are computed.
        audit: log of certificates; None: there is none.
    """

    engines: Mapping[str, str]
    opener: Callable[[str], SmoothedEncoder]
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    remote: Remote | None = None
    memory: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: float = 0.0
    tls: Mapping[str, Any] = field(default_factory=dict)
    grpc_port: int | None = None
    cache: Cache | None = None
    audit: AuditLog | None = None


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; errors as `SmoothedEncoder`, where an engine cannot be opened at the start."""
    with logging_as_json():
        _run_loop(_serve(options))


def _run_loop(serving: Coroutine[Any, Any, None]) -> None:
    """Run the server in the fastest event loop that this system has."""
    try:
        # It takes less of the processor than asyncio's own loop; it is not published for Windows.
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(options: Options) -> None:
    models = Models(
        options.engines, options.opener, options.limits.max_rows, options.policies, options.memory
    )
    service = Service(models, options.limits, cache=options.cache, audit=options.audit)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = make_app(service, options.keys, options.remote, failed, _grpc(service, options))
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=impatient(options.limits.head_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.limits.deadline) + 1,
        # uvicorn's own default asks no client for a certificate, whatever the authorities.
        ssl_cert_reqs=ssl.CERT_REQUIRED if options.tls.get("ssl_ca_certs") else ssl.CERT_NONE,
        **{name: value for name, value in options.tls.items() if value is not None},
    )
    server = _Server(config, service, options.drain_seconds)
    loop, reloading = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        task = loop.create_task(_reload(service, options.keys))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    await server.serve()
    if failures:
        raise failures[0]


def _grpc(service: Service, options: Options) -> AbstractAsyncContextManager[None] | None:
    """Return a server of gRPC, started where it is entered, or None; raises OSError where its port is taken."""
    if options.grpc_port is None:
        return None
    from fsfast.serve.grpc import make_server

    server = make_server(service, options.keys, f"{options.host}:{options.grpc_port}", options.tls)

    @asynccontextmanager
    async def started() -> AsyncIterator[None]:
        await server.start()
        try:
            yield
        finally:
            # Calls that are under way are answered.
            await server.stop(options.limits.deadline)

    return started()


async def _reload(service: Service, keys: Keys) -> None:
    """Read the keys and open the engines anew; what cannot be used stays as it was, and the log says why."""
    try:
        keys.reload()
    except (OSError, ValueError) as error:
        logger.error("the keys stay as they were: %s", error)
    await service.models.reload()


class _Server(uvicorn.Server):
    """Says that it stops before it does, so that others are asked meanwhile; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        if self._service.stopping or not self._drain_seconds:
            self._service.stopping = True
            super().handle_exit(sig, frame)
            return
        self._service.stopping = True
        logger.info("no longer ready; the port is closed in %g seconds", self._drain_seconds)
        loop = asyncio.get_running_loop()
        # A signal comes between any two lines of the loop's own.
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, super().handle_exit, sig, frame)
