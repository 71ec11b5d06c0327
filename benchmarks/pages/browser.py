"""A Chromium without a window, for pictures of pages and for tests of them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Return the path of a Chromium, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run(*arguments: str) -> str:
    """Return what Chromium prints, with these arguments, the page's address last.

    Raises:
        FileNotFoundError: there is none.
        subprocess.CalledProcessError: it failed.
    """
    command = [*_command(), "--virtual-time-budget=20000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@contextmanager
def showing(address: str) -> Iterator[None]:
    """Show a page in real time, for one that waits for a server's answers.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [*_command(), f"--user-data-dir={profile}", "--remote-debugging-port=0", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def _command() -> list[str]:
    path = find()
    if path is None:
        raise FileNotFoundError(
            f"wanted one of {', '.join(NAMES)} on the path, found none: apt-get install chromium"
        )
    # Only pages of ours are opened; without its sandbox it runs as root, too.
    return [path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
