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


class Journal:
    """The file that `certify -o` appends to; its certificates are found by the grid hashes of their images.

    They are read again when they are asked for: the file may be larger than the memory.

    Args:
        path: the file, which need not exist; a line that was cut off is dropped.
        wanted: gives the settings of a certificate: name → (there, asked for now).

    Raises:
        CertificateError: the file holds something else, or certificates made with other settings. It is left
            as it was.
    """

    def __init__(
        self, path: str, wanted: Callable[[Certificate], Mapping[str, tuple[object, object]]]
    ) -> None:
        self._path = path
        # Where a line begins, and its length.
        self._lines: dict[str, tuple[int, int]] = {}
        self._end = 0
        if Path(path).exists():
            self._resume(wanted)

    def _resume(self, wanted: Callable[[Certificate], Mapping[str, tuple[object, object]]]) -> None:
        from fsfast.certificates.lines import read_records
        from fsfast.certificates.reading import parse_certificate

        content = Path(self._path).read_bytes()
        try:
            records, tail = read_records(content, self._path)
            for number, (record, line) in enumerate(zip(records, content.split(b"\n"), strict=False), 1):
                certificate = parse_certificate(record, f"{self._path}, line {number}")
                for setting, (there, now) in wanted(certificate).items():
                    if there != now:
                        raise CertificateError(
                            f"{self._path}, line {number}, has another {setting} ({there} there, {now} now)"
                        )
                self._remember(certificate, len(line) + 1)
        except CertificateError as error:
            raise CertificateError(f"{error}; choose another file for --output") from None
        if tail:
            os.truncate(self._path, len(content) - len(tail))
        elif content and not content.endswith(b"\n"):
            append(self._path, b"\n")

    def __contains__(self, grid_sha256: str) -> bool:
        return grid_sha256 in self._lines

    def __getitem__(self, grid_sha256: str) -> Certificate:
        from fsfast.certificates.reading import parse_certificate
        from fsfast.strict_json import parse_json

        start, length = self._lines[grid_sha256]
        with open(self._path, "rb") as handle:
            handle.seek(start)
            return parse_certificate(parse_json(handle.read(length)), self._path)

    def append(self, certificate: Certificate, line: str) -> None:
        """Write a certificate's line, which is on the disk afterwards."""
        content = line.encode() + b"\n"
        append(self._path, content)
        self._remember(certificate, len(content))

    def _remember(self, certificate: Certificate, length: int) -> None:
        self._lines[certificate.grid_sha256] = self._end, length
        self._end += length


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
