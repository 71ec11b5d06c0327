"""A server of the built-in engine on loopback, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import fsfast

SECRET = "a secret that only tests know"


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        address: host:port.
        grpc: the same for gRPC.
        process: it.
        log: what it writes to stderr.
    """

    address: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def stop(self, sig: int = signal.SIGTERM) -> str:
        """End it, and return its log."""
        self.process.send_signal(sig)
        self.process.wait(60)
        return self.log.read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(url: str) -> int:
    """Return the status of a GET, 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def running(*arguments: str) -> Iterator[Server]:
    """Start a server, and end it."""
    pytest.importorskip("fastapi", reason="the server needs the extra [serve]")
    port, grpc_port = free_port(), free_port()
    ports = ("--port", str(port), "--grpc-port", str(grpc_port))
    command = [sys.executable, "-m", "fsfast", "serve", *arguments, *ports]
    environment = os.environ | {"FSFAST_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
    # Not a pipe, which nobody reads meanwhile, and which would be full in the end.
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, cwd=Path(__file__).parents[2])
        server = Server(f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", process, Path(log.name))
        try:
            until = time.monotonic() + 60
            while status_of(f"{server.url}/v2/health/ready") != 200:
                assert process.poll() is None, server.log.read_text(encoding="utf-8")
                assert time.monotonic() < until, "not ready within a minute"
                time.sleep(0.1)
            yield server
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Serves "demo", and lets clients choose seeds."""
    with running("demo", "--allow-seeds") as started:
        yield started


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    """Starts a server with other options."""
    return running


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
