"""Open an engine on the device that is asked for."""

from __future__ import annotations

import os

from fsfast.runtime.cpu.opening import open_on_cpu
from fsfast.runtime.function import Opened
from fsfast.runtime.options import Options, choose_device


def open_engine(name_or_path: str | os.PathLike[str], options: Options) -> Opened:
    """Return an engine that is ready to serve; errors as `SmoothedEncoder`."""
    device = choose_device(options.device)
    if device == "cpu":
        return open_on_cpu(name_or_path, options)
    # Needs torch, which nobody needs who serves on a CPU.
    from fsfast.runtime.gpu import opening

    return opening.open_on_gpu(name_or_path, device, options)
