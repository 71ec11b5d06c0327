"""Files are written whole or not at all, and known by their hashes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK = 1 << 20
# Of Linux: names are relative to the current folder; RENAME_EXCHANGE.
_HERE, _EXCHANGE = -100, 2
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all; errors as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append(path: str | os.PathLike[str], content: bytes) -> None:
    """Append to a file and wait until it is on the disk."""
    with open(path, "ab") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty file beside `path` to write to; afterwards it is flushed to the disk and renamed to `path`.

    Raises:
        OSError: the folder is missing or cannot be written; it names `path`, and nothing is left behind.
    """
    path = Path(path)
    # Short, so that every name that the file system takes can be written.
    temporary = path.parent / f".{secrets.token_hex(6)}.part"
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # safetensors writes for the owner alone; the file is to be as any other that this user makes.
        temporary.chmod(mode)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Users know the name that they gave, not the temporary one.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except Exception as error:
        number = _number_in(error, path.parent)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        # Where the folder itself cannot be used there is nothing to remove.
        with suppress(OSError):
            temporary.unlink()


def _number_in(error: Exception, folder: Path) -> int | None:
    """Return the system's error behind a library's own, None where there is none.

    safetensors puts its number into words; torch says that it could not write, and not why.
    """
    if found := _OS_ERROR.search(str(error)):
        return int(found[1])
    try:
        full = os.statvfs(folder).f_bavail == 0
    except (OSError, AttributeError):
        return None
    return errno.ENOSPC if full else None


def exchange(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Let two names change places in one step, so that neither is ever missing; False where the system cannot.

    Raises:
        OSError: one of them is missing, or may not be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), os.fspath(b))


def check_target(path: str | os.PathLike[str], *, append: bool = False) -> None:
    """Refuse an output file that could not be written, before the work that it is to hold.

    Args:
        path: the file to write.
        append: it is written to in place; otherwise it is replaced, which needs a writable folder.

    Raises:
        OSError: a directory or a device, a missing folder, or no permission to write.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"wanted the name of an output file, {path} is a directory; name a file in it"
        )
    if path.exists() and not path.is_file():
        raise OSError(f"wanted the name of an output file, {path} is not a regular file; choose another")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; make it first"
        )
    in_place = append and path.exists()
    if not os.access(path if in_place else path.parent, os.W_OK if in_place else os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: no permission; choose another place")


def cache_folder() -> Path:
    """Return the user's cache folder for fsfast: $FSFAST_CACHE, or fsfast/ in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: this user has no home folder, as in a container with a number for a user.
    """
    if folder := os.environ.get("FSFAST_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "fsfast"
    try:
        return Path.home() / ".cache" / "fsfast"
    except RuntimeError:
        raise OSError("this user has no home folder; name a folder in FSFAST_CACHE") from None


def read_cached(*names: str) -> bytes | None:
    """Return a file of the cache folder, or None where it cannot be read."""
    try:
        return cache_folder().joinpath(*names).read_bytes()
    except OSError:
        return None


def write_cached(content: bytes, *names: str) -> None:
    """Write a file of the cache folder, whole or not at all; raises OSError."""
    place = cache_folder().joinpath(*names)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file, hex, without holding the file in memory."""
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
