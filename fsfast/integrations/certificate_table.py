"""Certificates as tables of Arrow: a row each, with the whole document, and columns to choose rows by."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.reading import parse_certificate
from fsfast.integrations.packages import host_package
from fsfast.strict_json import parse_json

host_package("pyarrow", "arrow")

import pyarrow as pa  # noqa: E402

# The cosine of the column `radius`.
COSINE = 0.5
_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "grid_sha256": pa.string(),
        "function_id": pa.string(),
        "n": pa.uint32(),
        "alpha": pa.float64(),
        "radius": pa.float64(),
        "certificate": pa.string(),
    }
)


def certificates_to_table(certificates: Sequence[Certificate]) -> pa.Table:
    """Return certificates as a table.

    `certificate` is the document that `Certificate.save` writes; `radius` the ℓ2 radius ([0,1] units) up to which it
    certifies a cosine of 0.5, 0 where there is none. All of them are read from the document alone.
    """
    rows = [
        {
            "name": each.image_name,
            "grid_sha256": each.grid_sha256,
            "function_id": each.function_id,
            "n": each.n,
            "alpha": each.alpha,
            "radius": each.radius(COSINE),
            "certificate": json.dumps(each.to_record(), ensure_ascii=False),
        }
        for each in certificates
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def certificates_from_table(table: pa.Table) -> list[Certificate]:
    """Return the certificates in a table, each checked as one that is read from a file.

    Raises:
        CertificateError: one of them is malformed or was altered.
    """
    return [
        parse_certificate(parse_json(text.encode()), f"row {row}")
        for row, text in enumerate(table["certificate"].to_pylist())
    ]
