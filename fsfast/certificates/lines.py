"""Files of certificates, one JSON line each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fsfast.budgets import Budget
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.reading import HEAD, parse_certificate
from fsfast.errors import CertificateError
from fsfast.file_kind import CERTIFICATE, HEAD_BYTES, recognise
from fsfast.strict_json import parse_json

FILE = Budget("FSFAST_MAX_CERTIFICATES_MB", 1024, "MB of memory")


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
            raise _not_a_line(name, number, content) from None
    if tail:
        try:
            # Only the line's end is missing: an editor may have taken it off.
            return [*records, parse_json(tail)], b""
        except ValueError:
            if not (tail.startswith(HEAD) or HEAD.startswith(tail)):
                raise _not_a_line(name, len(lines) + 1, content) from None
    return records, tail


def _not_a_line(name: str, number: int, content: bytes) -> CertificateError:
    kind = recognise(content[:HEAD_BYTES]) if number == 1 else None
    if kind is None or kind is CERTIFICATE:
        return CertificateError(f"{name}, line {number}, is not a certificate")
    return CertificateError(f"{name} is not a file of certificates but {kind.what}")


def read_file(path: str) -> tuple[list[Any], bytes]:
    """Return the JSON documents of a file that holds one, on any number of lines, or one per line.

    Returns:
        The documents, and the end of the file that an interruption cut off.

    Raises:
        CertificateError: the file cannot be read, or something else is in it.
    """
    try:
        FILE.check(os.stat(path).st_size / 1e6, f"reading {path}")
        content = Path(path).read_bytes()
    except ValueError as error:
        raise CertificateError(str(error)) from None
    except OSError as error:
        raise CertificateError(f"wanted a file of certificates, {path}: {error.strerror}") from None
    try:
        return [parse_json(content)], b""
    except ValueError:
        return read_records(content, path)


def load_certificates(path: str | os.PathLike[str]) -> list[Certificate]:
    """Read a file of one certificate per line, as `fsfast certify -o` writes it, or of a single one.

    A last line that an interruption cut off is left out.

    Raises:
        CertificateError: missing, or something else is in it; the line is named.
    """
    name = os.fspath(path)
    records, _ = read_file(name)
    if len(records) == 1:
        return [parse_certificate(records[0], name)]
    certificates: list[Certificate] = []
    inflated = 0.0
    for number, record in enumerate(records, 1):
        certificate = parse_certificate(record, f"{name}, line {number}")
        tokens = certificate.token_scores
        inflated += (certificate.scores.nbytes + (0 if tokens is None else tokens.nbytes)) / 1e6
        try:
            FILE.check(inflated, f"what {name} holds up to line {number}")
        except ValueError as error:
            raise CertificateError(str(error)) from None
        certificates.append(certificate)
    return certificates
