"""A server of the built-in engine on loopback, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fsfast
from benchmarks.load.server import SECRET, Server


@pytest.fixture(scope="session")
def start() -> type[Server]:
    """Starts a server with other options, as a context manager."""
    pytest.importorskip("fastapi", reason="the server needs the extra [serve]")
    return Server


@pytest.fixture(scope="session")
def server(start: type[Server]) -> Iterator[Server]:
    """Serves "demo", and lets clients choose seeds."""
    with start("demo", "--allow-seeds") as started:
        yield started


@pytest.fixture(scope="session")
def encoder() -> Iterator[fsfast.SmoothedEncoder]:
    """The encoder that the server must agree with."""
    with fsfast.SmoothedEncoder("demo", secret=SECRET) as opened:
        yield opened


@pytest.fixture(scope="session")
def files() -> list[bytes]:
    """Image files on the engine's grid."""
    from fsfast.report.examples import load_examples

    return [example.image.read_bytes() for example in load_examples()]
