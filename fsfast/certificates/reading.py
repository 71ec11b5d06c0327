"""Certificates from JSON: read strictly, and held against themselves."""

from __future__ import annotations

import os
import zlib
from typing import Any

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.fields import FIELDS, SCHEMA_VERSION
from fsfast.certificates.writing import to_record
from fsfast.errors import CertificateAltered, CertificateError
from fsfast.strict_json import check_schema, parse_json

# Numbers derived elsewhere may differ by rounding, never by more than this.
_ROUNDING = 1e-9
# Bounds at stated radii come from a search that other versions of SciPy may end elsewhere.
_SEARCH = 1e-4
MAX_FILE_BYTES = 64 << 20


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
    except (ValueError, OSError) as error:
        raise CertificateError(f"{os.fspath(path)} is not a certificate: {error}") from None
    return parse_certificate(record, os.fspath(path))


def parse_certificate(record: Any, name: str = "certificate") -> Certificate:
    """Turn a JSON document into a Certificate; raises CertificateError as `load_certificate` does."""
    if not isinstance(record, dict) or record.get("format") != "fsfast-certificate":
        raise CertificateError(f"{name} is not an fsfast certificate")
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
        raise CertificateError(f"{name} is malformed: {error}") from None
    if certificate.profile.function_id(certificate.engine_digest) != certificate.function_id:
        raise CertificateAltered(f"{name} was altered: its function_id is not that of its engine and profile")
    if not _follows(record, again):
        raise CertificateAltered(f"{name} was altered: its stated bounds do not follow from its scores")
    return certificate


def _follows(record: dict[str, Any], again: dict[str, Any]) -> bool:
    """Whether a record says what was computed from it again, and its bounds no more than that.

    Other processors and versions of NumPy round the last bits of logarithms differently, and the same scores
    may compress to other bytes; both are honest. A later version may find better bounds.
    """
    derived = ("constants", "bounds", "scores", "token_scores")
    if record.keys() != again.keys() or any(record[key] != again[key] for key in again if key not in derived):
        return False
    stated, found = record["constants"], again["constants"]
    if len(stated["caps"]) != len(found["caps"]) or (stated["perp"] is None) != (found["perp"] is None):
        return False
    pairs = [(stated["mean"], found["mean"]), *zip(stated["caps"], found["caps"], strict=True)]
    if found["perp"] is not None:
        pairs.append((stated["perp"], found["perp"]))
    if not all(abs(s - f) <= _ROUNDING for s, f in pairs):
        return False
    if any(bound["method"] != "joint" for bound in record["bounds"]):
        return False
    cosines = zip(record["bounds"], again["bounds"], strict=True)
    return all(
        s["cosine"] is None or (f["cosine"] is not None and s["cosine"] <= f["cosine"] + _SEARCH)
        for s, f in cosines
    )


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
