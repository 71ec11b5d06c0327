"""Whether a picture could be written, before the work that it is to show."""

from __future__ import annotations

from importlib.util import find_spec

from fsfast.errors import BackendUnavailable
from fsfast.files import check_target
from fsfast.installation import pip_install_extras


def check_plot(path: str) -> None:
    """Refuse a --plot that could not be drawn.

    Raises:
        OSError: the file could not be written.
        ValueError: another name than FILE.svg.
        BackendUnavailable: matplotlib is missing.
    """
    check_target(path)
    if not path.endswith(".svg"):
        raise ValueError(f"wanted --plot FILE.svg, got {path}")
    if find_spec("matplotlib") is None:
        raise BackendUnavailable(f"--plot needs matplotlib; {pip_install_extras('plot')}")
