"""A Chromium without a window, for pictures of pages and for tests of them."""

from __future__ import annotations

import shutil
import subprocess

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
    path = find()
    if path is None:
        raise FileNotFoundError(
            f"wanted one of {', '.join(NAMES)} on the path, found none: apt-get install chromium"
        )
    # Only pages of ours are opened; without its sandbox it runs as root, too.
    fixed = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
    )
    done = subprocess.run([path, *fixed, *arguments], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout
