"""TensorRT (11 and later) and TensorRT-RTX (1 and later): two libraries, one API, one code path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TextIO

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip, pip_install_extras

# name → module, oldest version that knows strongly typed networks only, the command that installs it.
LIBRARIES = {
    "tensorrt": ("tensorrt", 11, partial(pip, "install", "tensorrt>=11")),
    "tensorrt_rtx": ("tensorrt_rtx_bindings", 1, partial(pip_install_extras, "tensorrt")),
}
AHEAD_OF_TIME = "ahead-of-time"


@dataclass(frozen=True)
class Library:
    """One of the two libraries, imported.

    Attributes:
        name: a key of LIBRARIES.
        version: its version.
        module: its Python module.
    """

    name: str
    version: str
    module: Any

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def ahead_of_time(self) -> bool:
        """Whether plans are built without a GPU and run on every GPU that the library supports."""
        return self.name == "tensorrt_rtx"

    def start(self, what: str, log: Any) -> Any:
        """Return the library's "Builder" or "Runtime".

        Raises:
            BackendUnavailable: the library cannot make one here.
        """
        try:
            return getattr(self.module, what)(log)
        # What the bindings make of a null pointer.
        except TypeError:
            reason = log.errors[-1] if log.errors else "it gives no reason"
            remedy = "" if self.ahead_of_time else "; it needs the GPU that is to run the plan"
            raise BackendUnavailable(f"{self} cannot start its {what} here: {reason}{remedy}") from None


def find_library(name: str | None = None) -> Library:
    """Return the library of this name, or the first of LIBRARIES that is installed.

    Raises:
        ValueError: no library has this name.
        BackendUnavailable: it is not installed, cannot be loaded, or is too old.
    """
    if name is not None and name not in LIBRARIES:
        raise ValueError(f"wanted a library of {', '.join(LIBRARIES)}, got {name!r}")
    reasons = []
    for candidate in LIBRARIES if name is None else (name,):
        try:
            return _load(candidate)
        except BackendUnavailable as error:
            reasons.append(str(error))
    raise BackendUnavailable("; ".join(reasons))


def _load(name: str) -> Library:
    module_name, oldest, install = LIBRARIES[name]
    try:
        module = import_module(module_name)
    # A binding without its shared libraries raises ImportError as well, or OSError.
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"{name} cannot be loaded ({error}); it comes with: {install()}") from None
    version = str(module.__version__)
    if int(version.split(".")[0]) < oldest:
        raise BackendUnavailable(f"wanted {name} {oldest} or later, got {version}; {install()}")
    return Library(name, version, module)


def new_log(library: Library, file: TextIO | None = None) -> Any:
    """Return a logger for the library's objects, which must outlive them.

    Args:
        library: whose logger it is.
        file: every line of severity INFO or worse is written there at once, so that it outlasts a crash.

    Returns:
        A logger; its list `errors` collects messages of severity ERROR and worse, each on one line.
    """
    logger: Any = library.module.ILogger
    quiet = logger.VERBOSE

    def construct(self: Any) -> None:
        logger.__init__(self)
        self.errors = []

    def log(self: Any, severity: Any, message: str) -> None:
        if severity == quiet:
            return
        line = " ".join(message.split())
        if severity in (logger.ERROR, logger.INTERNAL_ERROR):
            self.errors.append(line)
        if file is not None:
            print(f"{severity.name}: {line}", file=file, flush=True)

    # The base class is known only once the library is loaded.
    return type("Log", (logger,), {"__init__": construct, "log": log})()
