"""Images that are named by URL: from allowed hosts alone, and never from private addresses."""

from __future__ import annotations

import asyncio
import socket

import pytest

httpx = pytest.importorskip("httpx", reason="images are fetched by httpx")

from fsfast.serve.errors import NotAllowed, RequestError, TooLarge  # noqa: E402
from fsfast.serve.remote import Remote  # noqa: E402

PUBLIC = "93.184.215.14"


@pytest.fixture
def names(monkeypatch):
    """The addresses of hosts, to be changed."""
    known = {"images.example": [PUBLIC], "other.example": [PUBLIC]}

    def getaddrinfo(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def fetched(url, answer, **options):
    """Fetch a URL, and return its content and the requests that were made."""
    requests = []

    def handle(request):
        requests.append(request)
        return answer(request)

    remote = Remote(
        ["images.example", "images.example:8443"], transport=httpx.MockTransport(handle), **options
    )
    return asyncio.run(remote.fetch(url)), requests


def test_the_address_that_was_looked_at_is_asked_by_the_hosts_name(names):
    content, (request,) = fetched(
        "https://images.example/a.png?b", lambda _: httpx.Response(200, stream=httpx.ByteStream(b"file"))
    )
    assert content == b"file"
    assert str(request.url) == f"https://{PUBLIC}/a.png?b"
    assert request.headers["host"] == "images.example"
    assert request.extensions["sni_hostname"] == "images.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        "http://images.example:81/a.png",
        "http://user:password@images.example/",
        "http://images.example@other.example/",
        "http://127.0.0.1/",
        "http://[::1]/",
    ],
)
def test_other_hosts_are_never_asked(names, url):
    with pytest.raises(NotAllowed, match=r"wanted a URL of images\.example"):
        fetched(url, lambda _: pytest.fail("it was asked"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "224.0.0.1",
    ],
)
def test_private_addresses_are_never_asked(names, address):
    # One among public ones is enough.
    names["images.example"] = [PUBLIC, address]
    with pytest.raises(NotAllowed, match="not public"):
        fetched("http://images.example/", lambda _: pytest.fail("it was asked"))


def test_redirects_are_followed_to_allowed_hosts_alone_and_not_for_ever(names):
    def answer(request):
        if request.url.path == "/a":
            return httpx.Response(302, headers={"location": "https://images.example:8443/b"})
        return httpx.Response(200, stream=httpx.ByteStream(b"file"))

    content, requests = fetched("http://images.example/a", answer)
    assert content == b"file"
    assert [request.headers["host"] for request in requests] == ["images.example", "images.example:8443"]
    with pytest.raises(NotAllowed):
        fetched(
            "http://images.example/a",
            lambda _: httpx.Response(302, headers={"location": "http://other.example"}),
        )
    with pytest.raises(RequestError, match="redirected more than 3 times"):
        fetched("http://images.example/a", lambda _: httpx.Response(302, headers={"location": "/a"}))


def test_size_time_and_faults_are_limited(names):
    with pytest.raises(TooLarge, match="at most 10 bytes"):
        fetched(
            "http://images.example/",
            lambda _: httpx.Response(200, stream=httpx.ByteStream(bytes(11))),
            max_bytes=10,
        )
    with pytest.raises(RequestError, match="404"):
        fetched("http://images.example/", lambda _: httpx.Response(404))

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self):
            await asyncio.sleep(30)
            yield b""

    with pytest.raises(RequestError, match=r"within 0\.05 seconds"):
        fetched("http://images.example/", lambda _: httpx.Response(200, stream=Slow()), seconds=0.05)
