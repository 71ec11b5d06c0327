"""Files of certificates, one JSON line each: `certify -o` appends to them, `verify` reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsfast.errors import CertificateError
from fsfast.strict_json import parse_json

if TYPE_CHECKING:
    from fsfast.record import Certificate

# Every line starts like this; a line cut off by an interruption is told from another file's text by it.
_HEAD = b'{"format": "fsfast-certificate"'


def read_records(content: bytes, name: str) -> tuple[list[Any], bytes]:
    """Return the JSON documents of a file of lines, and the end of it that an interruption cut off.

    Raises:
        CertificateError: a line is something else; it is named.
    """
    whole, newline, tail = content.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse_json(line))
        except ValueError:
            raise CertificateError(f"{name}, line {number}, is not a certificate") from None
    if tail:
        try:
            # Only the line's end is missing: an editor may have taken it off.
            return [*records, parse_json(tail)], b""
        except ValueError:
            if not (tail.startswith(_HEAD) or _HEAD.startswith(tail)):
                raise CertificateError(f"{name}, line {len(lines) + 1}, is not a certificate") from None
    return records, tail


def resume(path: str, wanted: Callable[[Certificate], Mapping[str, tuple[object, object]]]) -> set[str]:
    """Return the grid hashes of the images that a file has certificates about; drop a line that was cut off.

    Args:
        path: the file, which need not exist.
        wanted: gives the settings of a certificate: name → (there, asked for now).

    Raises:
        CertificateError: the file holds something else, or certificates made with other settings. It is left
            as it was.
    """
    from fsfast.certificate_file import parse_certificate

    if not Path(path).exists():
        return set()
    content = Path(path).read_bytes()
    done = set()
    try:
        records, tail = read_records(content, path)
        for number, record in enumerate(records, 1):
            certificate = parse_certificate(record, f"{path}, line {number}")
            for setting, (there, now) in wanted(certificate).items():
                if there != now:
                    raise CertificateError(
                        f"{path}, line {number}, has another {setting} ({there} there, {now} now)"
                    )
            done.add(certificate.grid_sha256)
    except CertificateError as error:
        raise CertificateError(f"{error}; choose another file for --output") from None
    if tail:
        os.truncate(path, len(content) - len(tail))
    elif content and not content.endswith(b"\n"):
        _write(path, b"\n")
    return done


def append(path: str, line: str) -> None:
    """Append one line and wait until it is on the disk."""
    _write(path, line.encode() + b"\n")


def _write(path: str, content: bytes) -> None:
    with open(path, "ab") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
