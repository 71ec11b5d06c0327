"""Files that grow while a command runs and survive interruptions: what `certify -o` writes, and a lock for all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.errors import CertificateError, FsfastError
from fsfast.files import append

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate


def resume(
    path: str, wanted: Callable[[Certificate], Mapping[str, tuple[object, object]]]
) -> dict[str, Certificate]:
    """Return a file's certificates by the grid hashes of their images; drop a line that was cut off.

    Args:
        path: the file, which need not exist.
        wanted: gives the settings of a certificate: name → (there, asked for now).

    Raises:
        CertificateError: the file holds something else, or certificates made with other settings. It is left
            as it was.
    """
    from fsfast.certificates.lines import read_records
    from fsfast.certificates.reading import parse_certificate

    if not Path(path).exists():
        return {}
    content = Path(path).read_bytes()
    done = {}
    try:
        records, tail = read_records(content, path)
        for number, record in enumerate(records, 1):
            certificate = parse_certificate(record, f"{path}, line {number}")
            for setting, (there, now) in wanted(certificate).items():
                if there != now:
                    raise CertificateError(
                        f"{path}, line {number}, has another {setting} ({there} there, {now} now)"
                    )
            done[certificate.grid_sha256] = certificate
    except CertificateError as error:
        raise CertificateError(f"{error}; choose another file for --output") from None
    if tail:
        os.truncate(path, len(content) - len(tail))
    elif content and not content.endswith(b"\n"):
        append(path, b"\n")
    return done


@contextmanager
def locked(path: str | None, command: str) -> Iterator[None]:
    """Keep other commands from writing to the same file meanwhile; a file that stays empty goes again.

    Args:
        path: the file, or None: nothing to keep.
        command: the name of those that write to it.

    Raises:
        FsfastError: another command writes to it.
    """
    if path is None:
        yield
        return
    existed = os.path.exists(path)
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FsfastError(
                f"another fsfast {command} writes to {path}; wait for it, or choose another name for --output"
            ) from None
        except OSError:
            # Not every file system has locks.
            pass
        try:
            yield
        finally:
            if not existed and os.fstat(handle.fileno()).st_size == 0:
                os.unlink(path)
