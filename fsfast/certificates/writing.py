"""Certificates as JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fsfast.certificates.fields import AFTER_BOUNDS, BEFORE_BOUNDS, Field
from fsfast.certificates.statement import Statement

# Radii at which a certificate file states its bounds unless others are chosen, in units of σ.
STATED_RADII = (0.25, 0.5, 1.0, 1.5, 2.0)


def to_json(certificate: Statement, epsilons: Sequence[float] | None = None) -> bytes:
    """Return the content of a certificate's file; `epsilons` as in `to_record`."""
    return json.dumps(to_record(certificate, epsilons), indent=1, ensure_ascii=False).encode() + b"\n"


def to_record(certificate: Statement, epsilons: Sequence[float] | None = None) -> dict[str, Any]:
    """Return a certificate as a JSON document; `schemas/certificate.schema.json` describes it.

    Args:
        certificate: any.
        epsilons: ℓ2 radii ([0,1] units) at which bounds are stated; None: some around σ.
    """
    record: dict[str, Any] = {}
    _put(record, BEFORE_BOUNDS, certificate)
    record["bounds"] = _stated_bounds(certificate, epsilons)
    _put(record, AFTER_BOUNDS, certificate)
    return record


def _put(record: dict[str, Any], fields: Sequence[Field], certificate: Statement) -> None:
    for field in fields:
        if field.only_if(certificate):
            field.put(record, certificate)


def _stated_bounds(certificate: Statement, epsilons: Sequence[float] | None) -> list[dict[str, Any]]:
    radii = [factor * certificate.sigma for factor in STATED_RADII] if epsilons is None else list(epsilons)
    bounds = certificate.curve(radii)
    return [
        {"epsilon": r, "cosine": None if np.isnan(b) else float(b), "method": "joint"}
        for r, b in zip(radii, bounds, strict=True)
    ]
