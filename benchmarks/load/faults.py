"""Clients that are broken, slow or hostile: what the server must answer each, and that it still serves others."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from benchmarks.load.server import Server
from benchmarks.load.traffic import GOOD, Traffic

_POST = b"POST /v2/models/demo/infer HTTP/1.1\r\nHost: server\r\n"
_PATIENCE = 20.0


@dataclass(frozen=True)
class Fault:
    """One kind of client.

    Attributes:
        name: of the kind.
        wanted: statuses that are right, of which "closed" says that the server closed the connection without one, and
            "waiting" that it neither answered nor closed.
        got: what came.
        others: whether another client was served meanwhile and afterwards.
    """

    name: str
    wanted: str
    got: str
    others: bool

    @property
    def right(self) -> bool:
        """Whether the server did what it must."""
        return self.got in self.wanted.split(" or ") and self.others


async def _exchange(port: int, *parts: bytes, pause: float = 0.0, patience: float = _PATIENCE) -> str:
    """Send parts over a connection, and return the status of every answer, joined by a comma.

    Args:
        port: of the server.
        parts: of what is sent.
        pause: seconds before each part.
        patience: seconds until no more answers are waited for.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(_send(writer, parts, pause))
    received = bytearray()
    try:
        await asyncio.wait_for(_receive(reader, received), patience)
        end = "closed"
    except asyncio.TimeoutError:
        end = "waiting"
    finally:
        sending.cancel()
        writer.close()
    statuses = re.findall(rb"^HTTP/1\.1 (\d{3}) ", bytes(received), re.M)
    return ",".join(status.decode() for status in statuses) or end


async def _receive(reader: asyncio.StreamReader, received: bytearray) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            received += chunk
    except ConnectionResetError:
        # As good as an end.
        return


async def _send(writer: asyncio.StreamWriter, parts: tuple[bytes, ...], pause: float) -> None:
    try:
        for part in parts:
            await asyncio.sleep(pause)
            writer.write(part)
            await writer.drain()
    except OSError:
        # The server has closed the connection.
        return


def _chunked(body: bytes, size: int = 1000) -> bytes:
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


# A second request inside the first: an intermediary that reads the first's end elsewhere lets it pass.
_SECOND = b"GET /v2/health/live HTTP/1.1\r\nHost: server\r\n\r\n"


def _smuggled(*headers: bytes) -> bytes:
    return _POST + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + _SECOND


def _requests(largest: int) -> dict[str, tuple[str, tuple[bytes, ...], float]]:
    """Return name → right statuses, parts of a connection's bytes, and seconds before each.

    Args:
        largest: bytes that a body may have.
    """
    length = b"Content-Length: %d"
    return {
        "half-open: nothing is sent": ("closed or 408", (), 0),
        "half a header": ("closed or 408", (_POST,), 0),
        "a body that comes byte by byte": (
            "408 or closed",
            (_POST + length % 1000 + b"\r\n\r\n", *[b"x"] * 1000),
            0.2,
        ),
        "a length beyond what is taken": ("413", (_POST + length % (largest + 1) + b"\r\n\r\n",), 0),
        "chunks beyond what is taken": (
            "413",
            (
                _POST + b"Transfer-Encoding: chunked\r\n\r\n",
                *[b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))] * (largest // (1 << 16) + 2),
            ),
            0,
        ),
        "chunks of nonsense": (
            "400",
            (_POST + b"Transfer-Encoding: chunked\r\n\r\n" + _chunked(b"x" * 5000),),
            0,
        ),
        "a length and chunks": (
            "400",
            (_smuggled(length % 5, b"Transfer-Encoding: chunked", b"", b"0", b""),),
            0,
        ),
        "two lengths": ("400", (_smuggled(b"Content-Length: 0", length % len(_SECOND)),), 0),
        "a length of no digits": ("400", (_smuggled(b"Content-Length: +0"),), 0),
        "two codings": (
            "400 or 501",
            (_smuggled(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),),
            0,
        ),
        "an unknown coding": ("400 or 501", (_smuggled(b"Transfer-Encoding: xchunked"),), 0),
        "a space before the colon": ("400", (_smuggled(b"Content-Length : 0"),), 0),
        "a folded header": ("400", (_smuggled(b"Transfer-Encoding:", b" chunked"),), 0),
        "a NUL in a header": ("400", (_smuggled(b"X: a\0b"),), 0),
        "a chunk size with a sign": ("400", (_smuggled(b"Transfer-Encoding: chunked", b"", b"+0", b""),), 0),
        "a chunk that ends elsewhere": (
            "400",
            (_smuggled(b"Transfer-Encoding: chunked", b"", b"1", b"xyz", b"0", b""),),
            0,
        ),
        "no HTTP at all": ("400", (b"\x16\x03\x01\x02\x00 TLS, perhaps\r\n\r\n",), 0),
    }


async def http_faults(server: Server, files: list[bytes], largest: int) -> list[Fault]:
    """Return what became of every kind of broken request over HTTP, all at once, while others are served.

    Args:
        server: with the model "demo".
        files: pictures.
        largest: bytes that a body may have there.
    """
    requests = _requests(largest)
    others = Traffic(server.url, "demo", files)
    *got, meanwhile = await asyncio.gather(
        *(_exchange(server.port, *parts, pause=pause) for _, parts, pause in requests.values()),
        others.by_clients(2, 20),
    )
    afterwards = await others.by_clients(1, 1)
    served = meanwhile.outcomes[GOOD] == 20 and afterwards.outcomes[GOOD] == 1
    return [
        Fault(name, wanted, found, served)
        for (name, (wanted, _, _)), found in zip(requests.items(), got, strict=True)
    ]


async def many_half_open(server: Server, files: list[bytes], connections: int = 200) -> Fault:
    """Hold so many connections open without a word while others are served."""
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(connections)]
    tally = await Traffic(server.url, "demo", files).by_clients(2, 10)
    for _, writer in held:
        writer.close()
    name = f"{connections} connections without a word"
    return Fault(name, "held", "held", tally.outcomes[GOOD] == 10)


async def grpc_faults(server: Server, files: list[bytes]) -> list[Fault]:
    """Return what became of messages that are none, over gRPC."""
    import grpc

    found = []
    for name, message in {
        "a message that is none": b"\xff" * 100,
        "a message that is cut off": b"\x0a\x7fdemo",
        "tensors that do not fit": b"\x0a\x04demo\x3a\x04\xff\xff\xff\x7f",
    }.items():
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            try:
                await call(message, timeout=_PATIENCE)
                got = "OK"
            except grpc.aio.AioRpcError as error:
                got = error.code().name
        tally = await Traffic(server.url, "demo", files).by_clients(1, 1)
        found.append(Fault(name, "INVALID_ARGUMENT or INTERNAL", got, tally.outcomes[GOOD] == 1))
    return found
