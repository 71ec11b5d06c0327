"""The audit log: a line for every certificate, on the disk before anybody is told of it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsfast.certificates.certificate import Certificate
from fsfast.files import check_target
from fsfast.serve.errors import AuditFailed
from fsfast.serve.logs import REQUEST_ID

logger = logging.getLogger("fsfast.serve")


class AuditLog:
    """A file of JSON lines that is only ever appended to. May be used from several threads, and processes, at once.

    A file that was renamed or removed is begun anew, so that logrotate needs no signal. A line that a power failure cut
    off stays a line of its own.

    Args:
        path: of the file; made for this user alone where it is missing.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        check_target(path, append=True)
        self._path = path
        self._lock = threading.Lock()
        # Whether the last line has no end, and must not swallow the next.
        self._cut_off = False
        self._file = self._opened()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a line, and wait until it is on the disk.

        Raises:
            AuditFailed: it cannot be written; the server's log says why.
        """
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            try:
                self._follow()
                self._write(line)
            except OSError as error:
                logger.error("the audit log %s cannot be written: %s", self._path, error)
                raise AuditFailed(
                    "the audit log cannot be written, so that nothing is certified; the server's log says why"
                ) from error

    def close(self) -> None:
        """Close the file; nothing more is certified."""
        with self._lock:
            # Its number may soon be another file's.
            file, self._file = self._file, -1
            os.close(file)

    def _opened(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            # Its name, too.
            os.fsync(folder)
        finally:
            os.close(folder)
        size = os.fstat(file).st_size
        self._cut_off = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        return file

    def _follow(self) -> None:
        """Open the file again where its name is another file's, or nobody's."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._file)):
            old, self._file = self._file, self._opened()
            os.close(old)

    def _write(self, line: bytes) -> None:
        # One call, so that lines of several processes do not mix.
        content = b"\n" + line if self._cut_off else line
        if written := os.write(self._file, content):
            self._cut_off = written < len(content)
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        os.fsync(self._file)


def entry(certificate: Certificate, *, purpose: str, model: str, caller: str) -> dict[str, Any]:
    """Return what the audit log says of a certificate.

    Its seeds stand there as in the certificate: under a secret each follows from its image and settings alone, and none
    tells of another.

    Args:
        certificate: to be issued.
        purpose: "certificate", or "policy": an answer was held against a rule.
        model: under which its engine is served.
        caller: who asked.
    """
    record = certificate.to_record()
    certification = record["certification"]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": REQUEST_ID.get(),
        "caller": caller,
        "purpose": purpose,
        "model": model,
        "engine_digest": certificate.engine_digest,
        "function_id": certificate.function_id,
        "grid_sha256": certificate.grid_sha256,
        "anchor": record["anchor"],
        **{name: certification[name] for name in ("seed", "seed_origin", "n", "alpha", "stopping")},
        "key_id": certificate.key_id,
        "bounds": record["bounds"],
        "certificate_sha256": digest(record),
    }


def digest(record: Mapping[str, Any]) -> str:
    """Return the sha256 of a certificate's JSON document, whatever its file's spaces, lines and order of keys."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
