"""Connections that are slow, silent or malformed, and bodies that are too large."""

from __future__ import annotations

import gzip
import socket
import time

import pytest

from benchmarks.load.server import status_of

PATH = "/v2/models/demo/infer"


@pytest.fixture(scope="module")
def strict(start):
    """A server with little patience that takes one request at a time."""
    limits = {"head-seconds": "1", "body-seconds": "1.5", "max-body-mb": "0.01", "max-requests": "1"}
    with start("demo", *(word for name, value in limits.items() for word in (f"--{name}", value))) as server:
        yield server


def connected(server):
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer_to(server, *parts):
    """Send bytes, and return all that comes until the server closes the connection."""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
        return all_of(connection)


def all_of(connection):
    found = b""
    while part := connection.recv(1 << 16):
        found += part
    return found


def head(*lines):
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "host: x", *lines, "", ""]).encode()


def test_silent_connections_are_closed(strict):
    assert answer_to(strict) == b""
    assert answer_to(strict, head("content-length: 2")[:-4]) == b""


def test_a_second_head_that_does_not_come_is_closed_too(strict):
    with connected(strict) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        found = b""
        # Head and body may come in two parts.
        while not found.endswith(b"}"):
            found += connection.recv(1 << 16)
        assert found.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /v2 HTT")
        assert connection.recv(1 << 16) == b""


def test_a_body_that_does_not_come_is_answered_and_meanwhile_the_server_is_full(strict):
    with connected(strict) as connection:
        connection.sendall(head("content-length: 9") + b"abc")
        time.sleep(0.3)
        full = answer_to(strict, head("content-length: 2") + b"{}")
        assert full.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1" in full
        assert status_of(f"{strict.url}/v2/health/ready") == 200
        late = all_of(connection)
    assert late.startswith(b"HTTP/1.1 408")
    assert b"BodyTimeout" in late


@pytest.mark.parametrize(
    "parts",
    [
        [head("content-length: 20000")],
        [head("transfer-encoding: chunked"), b"2710\r\n" + b"x" * 10000 + b"\r\n", b"1\r\ny\r\n"],
        [
            head("content-encoding: gzip", f"content-length: {len(bomb := gzip.compress(bytes(1 << 20)))}"),
            bomb,
        ],
    ],
    ids=["stated", "chunked", "packed"],
)
def test_bodies_that_are_too_large_are_refused(strict, parts):
    assert answer_to(strict, *parts).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 2", "transfer-encoding: chunked"],
        ["content-length: 2", "content-length: 3"],
        ["content-length: +2"],
        ["transfer-encoding: chunked, identity"],
        ["content-length : 2"],
    ],
)
def test_shapes_by_which_requests_are_smuggled_are_refused(strict, lines):
    smuggled = b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"
    found = answer_to(strict, head(*lines) + b"0\r\n\r\n" + smuggled)
    assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert found.count(b"HTTP/1.1") == 1
