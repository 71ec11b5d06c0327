"""How this fsfast was installed, and the commands that complete it."""

from __future__ import annotations

import shlex
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from shutil import which

from fsfast.errors import BackendUnavailable

_ROOT = Path(__file__).parents[1]


def clone() -> Path | None:
    """Return the folder of the clone that fsfast is imported from; None where it is an installed copy."""
    return _ROOT if (_ROOT / "csrc").is_dir() else None


def hidden() -> Path | None:
    """Return the folder of another fsfast that this one hides: Python was started in a clone's folder."""
    folders = (Path(entry) for entry in sys.path)
    return next(
        (f for f in folders if (f / "fsfast" / "__init__.py").is_file() and f.resolve() != _ROOT), None
    )


def pip(command: str, *arguments: str) -> str:
    """Return the command line that calls pip for this Python, wherever it is typed; uv's where there is no pip."""
    python = sys.executable or "python3"
    # Not find_spec: setuptools takes a search for pip for pip at work, and breaks itself in this process.
    if PathFinder.find_spec("pip") is None:
        words = ["uv", "pip", command, "--python", python]
    elif which("pip") == str(Path(python).with_name("pip")):
        words = ["pip", command]
    else:
        words = [python, "-m", "pip", command]
    return shlex.join([*words, *arguments])


def pip_install_extras(*extras: str) -> str:
    """Return the command that installs what extras of fsfast name, whether or not an index has fsfast itself."""
    from importlib.metadata import PackageNotFoundError

    if folder := clone():
        return pip("install", "-e", f"{folder}[{','.join(extras)}]")
    try:
        return pip("install", *_requirements(extras))
    except PackageNotFoundError:
        # A copy without metadata, as programs that bundle packages make it.
        return f"install what the extra [{','.join(extras)}] in fsfast's pyproject.toml names"


def _requirements(extras: tuple[str, ...]) -> list[str]:
    """Return what extras add here, by the metadata of the installed copy."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    known = [Requirement(line) for line in requires("fsfast") or ()]
    wanted = [r for r in known if r.marker and any(r.marker.evaluate({"extra": extra}) for extra in extras)]
    return list(dict.fromkeys(f"{r.name}{r.specifier}" for r in wanted))


def extension_missing(error: ImportError) -> BackendUnavailable:
    """Return the error that says why the compiled part of fsfast does not load, and the remedy."""
    reason = f"the C++ extension of fsfast does not load ({error})"
    folder = clone()
    if folder is None:
        return BackendUnavailable(
            f"{reason}; with a C++ compiler at hand run, in a clone of the sources, "
            f"{pip('install', '--force-reinstall', '--no-deps', '.')}"
        )
    build = f"with a C++ compiler at hand run {pip('install', '-e', str(folder))}"
    if installed := hidden():
        return BackendUnavailable(
            f"{reason}: the clone in {folder} is not built for this Python, and hides the fsfast in {installed}; "
            f"start Python in another folder to use that one, or {build}"
        )
    return BackendUnavailable(f"{reason}; {build}")
