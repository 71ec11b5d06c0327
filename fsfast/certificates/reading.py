"""Certificates from JSON: read strictly, and held against themselves."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.fields import FIELDS, SCHEMA_VERSION
from fsfast.certificates.writing import to_record
from fsfast.errors import CertificateAltered, CertificateError, brief, printable
from fsfast.file_kind import CERTIFICATE, HEAD_BYTES, recognise
from fsfast.strict_json import check_schema, parse_json

# Numbers derived elsewhere may differ by rounding, never by more than this.
_ROUNDING = 1e-9
# Bounds at stated radii come from a search that other versions of SciPy may end elsewhere.
_SEARCH = 1e-4
MAX_FILE_BYTES = 64 << 20
# What follows from other fields, and may differ a little.
_DERIVED = ("constants", "bounds", "scores", "token_scores")
# Every certificate starts like this; a line cut off by an interruption is told from another file's text by it.
HEAD = b'{"format": "fsfast-certificate"'
_REMEDY = "get the file again from who made it"


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate file and check that it agrees with itself.

    Raises:
        CertificateError: missing, malformed, too new, or its stated bounds do not follow from its scores.
    """
    try:
        with open(path, "rb") as handle:
            content = handle.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        record = parse_json(content)
    except FileNotFoundError:
        raise CertificateError(f"wanted a certificate file, {os.fspath(path)} does not exist") from None
    except OSError as error:
        raise CertificateError(f"{os.fspath(path)} is not a certificate: {brief(error)}") from None
    except ValueError as error:
        raise CertificateError(f"{os.fspath(path)} {_instead(content, error)}") from None
    return parse_certificate(record, os.fspath(path))


def _instead(content: bytes, error: ValueError) -> str:
    """Return what a file is that is not one certificate."""
    first, _, rest = content.partition(b"\n")
    if first.startswith(HEAD) and rest.startswith(HEAD):
        return "holds several certificates, one per line; read it with load_certificates"
    kind = recognise(content[:HEAD_BYTES])
    if kind is None or kind is CERTIFICATE:
        return f"is not a certificate: {brief(error)}"
    return f"is not a certificate but {kind.what}"


def parse_certificate(record: Any, name: str = "certificate") -> Certificate:
    """Turn a JSON document into a Certificate; raises CertificateError as `load_certificate` does."""
    if not isinstance(record, dict) or record.get("format") != "fsfast-certificate":
        declared = record.get("format") if isinstance(record, dict) else None
        but = f"; it declares itself as {brief(repr(declared))}" if isinstance(declared, str) else ""
        raise CertificateError(f"{name} is not an fsfast certificate{but}")
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise CertificateError(
            f"{name} has schema version {schema}, this fsfast reads up to {SCHEMA_VERSION}; upgrade fsfast"
        )
    # G. File: what it states must follow from what it holds
    try:
        check_schema(record, "certificate.schema.json")
        certificate = _from_record(record)
        again = to_record(certificate, [bound["epsilon"] for bound in record["bounds"]])
    except (ValueError, TypeError, KeyError, OverflowError, zlib.error) as error:
        raise CertificateError(f"{name} is malformed: {brief(error)}; {_REMEDY}") from None
    if certificate.profile.function_id(certificate.engine_digest) != certificate.function_id:
        raise CertificateAltered(
            f"{name} was altered: function_id is not that of its engine and profile; {_REMEDY}"
        )
    if wrong := next(_wrong(record, again), None):
        raise CertificateAltered(f"{name} was altered: {printable(wrong)}; {_REMEDY}")
    return certificate


def _wrong(record: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    """Yield which fields of a record are not what was computed from it again, or say more than that.

    Other processors and versions of NumPy round the last bits of logarithms differently, and the same scores
    may compress to other bytes; both are honest. A later version may find better bounds.
    """
    for key in sorted(record.keys() ^ again.keys()):
        yield f"{key} does not belong to such a certificate" if key in record else f"{key} is missing"
    for key in again:
        if key not in _DERIVED and key in record:
            yield from _differences(record[key], again[key], key)
    for place, stated, found in _numbers(record["constants"], again["constants"], "constants"):
        if stated is None or found is None or not abs(stated - found) <= _ROUNDING:
            yield _said(place, stated, found)
    for i, (bound, computed) in enumerate(zip(record["bounds"], again["bounds"], strict=True)):
        yield from _differences(bound["method"], computed["method"], f"bounds[{i}].method")
        stated, found = bound["cosine"], computed["cosine"]
        if stated is not None and (found is None or not stated <= found + _SEARCH):
            yield _said(f"bounds[{i}].cosine", stated, found)


def _differences(stated: Any, found: Any, place: str) -> Iterator[str]:
    """Yield the places where two documents differ."""
    if isinstance(stated, dict) and isinstance(found, dict) and stated.keys() == found.keys():
        for key in found:
            yield from _differences(stated[key], found[key], f"{place}.{key}")
    elif stated != found:
        yield _said(place, stated, found)


def _numbers(stated: Any, found: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the numbers of two documents side by side, None for one that the other one has alone."""
    if isinstance(found, dict):
        for key in found:
            yield from _numbers(stated[key], found[key], f"{place}.{key}")
    elif isinstance(found, list):
        for i, (one, other) in enumerate(zip_longest(stated, found)):
            yield from _numbers(one, other, f"{place}[{i}]")
    elif not stated is found is None:
        yield place, stated, found


def _said(place: str, stated: Any, found: Any) -> str:
    return f"{place} is {brief(json.dumps(stated))}, from its scores follows {brief(json.dumps(found))}"


def _from_record(record: dict[str, Any]) -> Certificate:
    anchor, certification = record["anchor"], record["certification"]
    stopping = certification["stopping"]
    numbers = [certification["n"], record["grid"]["height"], record["grid"]["width"], anchor.get("n0", 1)]
    numbers += [
        certification["pilot"],
        record["profile"]["micro_batch"],
        record["profile"].get("graph_threads", 2),
    ]
    numbers += [1 if stopping is None else stopping["n_max"]]
    if not all(type(number) is int for number in numbers):
        raise ValueError("counts must be written as integers")
    if stopping is not None and certification["method"] == "hoeffding":
        raise ValueError("the method hoeffding needs a fixed n")
    if (stopping is None) != (record["perp_norm"] is not None):
        raise ValueError("perp_norm belongs to certificates with a fixed n, and to them alone")
    return Certificate(**{f.name: f.get(record) for f in FIELDS if f.name is not None and f.given(record)})
