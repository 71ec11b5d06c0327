"""How the commands beside the package start and end: packages that are missing, Ctrl-C, SIGTERM."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from fsfast.installation import pip_install_extras


def run(program: str, main: Callable[[], int], *needs: str) -> NoReturn:
    """Run a command line and exit with its code: 2 without its packages, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        program: how it is started, for messages.
        main: returns the exit code.
        needs: the extras of fsfast whose packages it imports.
    """
    signal.signal(signal.SIGTERM, _exit)
    try:
        sys.exit(main())
    except ImportError as error:
        exit_without(program, error, *needs)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


def exit_without(program: str, error: ImportError, *needs: str) -> NoReturn:
    """Exit with code 2, naming the package that cannot be imported and the remedy; arguments as `run`."""
    print(f"{program}: {error}; {pip_install_extras(*needs)}", file=sys.stderr)
    sys.exit(2)


def _exit(number: int, frame: FrameType | None) -> None:
    # What was begun is cleaned up; a second one must not stop that.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)
