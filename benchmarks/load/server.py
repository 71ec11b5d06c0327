"""A server in a process of its own, and what it uses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """`fsfast serve` on loopback, as a context manager that waits until it is ready, and stops it.

    Args:
        engine: directory or name.
        *options: more of the command's.
        port: None: a free one.

    Attributes:
        port: of HTTP.
        url: of HTTP.
    """

    def __init__(self, engine: str, *options: str, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "fsfast", "serve", engine, "--port", str(self.port), *options]

    def __enter__(self) -> Server:
        # Under a secret the same picture has the same features, whoever asks.
        environment = {**os.environ, "FSFAST_SECRET": "known to the load tests"}
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        end = time.monotonic() + _START_SECONDS
        while not self.ready:
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                raise RuntimeError(f"{' '.join(self._command)} did not become ready")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stop() is None:
            self.kill()

    @property
    def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    @property
    def processor_seconds(self) -> float:
        """Seconds of all processors, in user's code and the kernel's."""
        # Behind the name, which may have spaces; fields 14 and 15 of proc(5).
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """Kill it as the kernel does where memory is short: without a word."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int | None:
        """Ask it to stop, and return its exit code, or None where it does not."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            return None
