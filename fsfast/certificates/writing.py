"""Certificates as JSON documents."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fsfast.certificates.evidence import PILOT, SCORE_UNIT
from fsfast.certificates.statement import Statement

SCHEMA_VERSION = 1
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
    c = certificate
    anchor: dict[str, Any] = {"kind": c.anchor.kind, "sha256": c.anchor.sha256}
    if c.anchor.kind == "served":
        anchor["n0"] = c.anchor.n0
        anchor["seed"] = _hex(c.anchor.seed)
        anchor["seed_origin"] = c.anchor.seed_origin
    record = {
        "format": "fsfast-certificate",
        "schema": SCHEMA_VERSION,
        "engine": {"name": c.engine, "digest": c.engine_digest, "random_weights": c.random_weights},
        "function_id": c.function_id,
        "profile": {**c.profile.record(), "stages": list(c.profile.stages)},
        "image": {"name": c.image_name, "grid_sha256": c.grid_sha256, "source": c.source},
        "grid": {"height": c.grid[0], "width": c.grid[1]},
        "sigma": c.sigma,
        "noise": {"version": 1, "total_variation": c.total_variation},
        "anchor": anchor,
        "certification": {
            "n": c.n,
            "alpha": c.alpha,
            "budget": asdict(c.budget),
            "method": c.method,
            "seed": _hex(c.seed),
            "seed_origin": c.seed_origin,
            "pilot": PILOT,
            "stopping": asdict(c.stopping) if c.stopping else None,
        },
        "thresholds": list(c.thresholds),
        "scores": _pack(c.scores),
        "perp_norm": c.perp_norm,
        "constants": {
            "mean": c.constants.mean,
            "caps": [p for _, p in c.constants.caps],
            "perp": c.constants.perp,
        },
        "bounds": _stated_bounds(c, epsilons),
        "versions": c.versions,
    }
    if c.token_scores is not None:
        record["token_scores"] = _pack(c.token_scores)
    return record


def _stated_bounds(certificate: Statement, epsilons: Sequence[float] | None) -> list[dict[str, Any]]:
    radii = [factor * certificate.sigma for factor in STATED_RADII] if epsilons is None else list(epsilons)
    bounds = certificate.curve(radii)
    return [
        {"epsilon": r, "cosine": None if np.isnan(b) else float(b), "method": "joint"}
        for r, b in zip(radii, bounds, strict=True)
    ]


def _hex(seed: int | None) -> str:
    return f"0x{seed:016x}"


def _pack(scores: np.ndarray) -> str:
    return base64.b64encode(zlib.compress((scores / SCORE_UNIT).astype("<u4").tobytes(), 9)).decode()
