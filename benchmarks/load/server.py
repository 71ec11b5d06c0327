"""A server in a process of its own, and what it uses."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

# Under a secret the same picture has the same features, whoever asks.
SECRET = "a secret that only tests know"
_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def status_of(url: str, tls: ssl.SSLContext | None = None) -> int:
    """Return the status of a GET, 0 where nobody listens or nobody is trusted."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=tls) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _seconds(stat: Path) -> float:
    # Behind the name, which may have spaces; fields 14 and 15 of proc(5).
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Server:
    """`fsfast serve` on loopback, as a context manager that waits until it is ready, and ends it.

    Args:
        *arguments: of the command, without ports.
        port: of HTTP; None: a free one.
        tls: by which it is reached; None: without TLS.

    Attributes:
        address: host:port of HTTP.
        grpc: host:port of gRPC.
        process: it.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, *arguments: str, port: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port, grpc_port = port or free_port(), free_port()
        self.address, self.grpc = f"127.0.0.1:{self.port}", f"127.0.0.1:{grpc_port}"
        ports = ("--port", str(self.port), "--grpc-port", str(grpc_port))
        self._command = [sys.executable, "-m", "fsfast", "serve", *arguments, *ports]

    @property
    def url(self) -> str:
        """Of HTTP."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def __enter__(self) -> Server:
        # Not a pipe, which nobody reads meanwhile, and which would be full in the end.
        self._log = tempfile.NamedTemporaryFile(suffix=".log")
        environment = {**os.environ, "FSFAST_SECRET": SECRET}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(self._command, stderr=self._log, env=environment, cwd=root)
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while status_of(f"{self.url}/v2/health/ready", self._tls) != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(self._command)} did not become ready: {self.log.read_text()}")
            time.sleep(0.1)

    def _end(self) -> None:
        self.kill()
        self._log.close()

    @property
    def log(self) -> Path:
        """The file of what it writes to stderr; it is gone with the server."""
        return Path(self._log.name)

    @property
    def processor_seconds(self) -> float:
        """Seconds of all processors, in user's code and the kernel's."""
        return _seconds(Path(f"/proc/{self.process.pid}/stat"))

    @property
    def loop_seconds(self) -> float:
        """Of them those of the thread that answers: it reads, routes, schedules and writes, and computes nothing."""
        return _seconds(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat"))

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """Kill it as the kernel does where memory is short: without a word."""
        self.process.kill()
        self.process.wait()

    def stop(self, sig: int = signal.SIGTERM) -> str:
        """Ask it to end, wait until it has, and return its log."""
        self.process.send_signal(sig)
        self.process.wait(60)
        return self.log.read_text(encoding="utf-8")
