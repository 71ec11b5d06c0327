"""SIGTERM ends a command as Ctrl-C does: what was begun is cleaned up."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def exit_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit with code 143, as shells report it, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    # A second one must not stop the cleaning.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)
