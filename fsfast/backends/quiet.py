"""Libraries that would tell their makers about their use are imported with that switched off."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# OpenVINO sends an event when it is imported, and writes a folder into the user's home; without this package it has a
# stand-in of its own that does nothing.
_TELEMETRY = "openvino_telemetry"


@contextmanager
def silenced() -> Iterator[None]:
    """Import ONNX Runtime or OpenVINO inside of this.

    Whoever imports them before fsfast decides himself: afterwards neither can be stopped.
    """
    # Read when the library is loaded; `disable_telemetry_events` comes too late for files and sockets.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            # Others may have a use for it.
            sys.modules.pop(_TELEMETRY, None)
