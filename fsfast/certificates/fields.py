"""Every field of a certificate, once: where it stands in the JSON document, how it is written and read back."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from fsfast.certificates.evidence import PILOT, SCORE_UNIT
from fsfast.certificates.statement import Anchor, Statement, Stopping
from fsfast.engine.profile import Profile

SCHEMA_VERSION = 1
# What scores may inflate to.
MAX_SCORE_BYTES = 64 << 20

Record = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One entry of the document.

    Attributes:
        place: keys that lead to it.
        write: makes its value of a certificate.
        name: the attribute that is read back from it; None where it follows from others.
        read: makes the attribute of the value and the document.
        only_if: whether a certificate has it; others leave it out.
    """

    place: tuple[str, ...]
    write: Callable[[Statement], Any]
    name: str | None = None
    read: Callable[[Any, Record], Any] = lambda value, record: value
    only_if: Callable[[Statement], bool] = lambda certificate: True

    def put(self, record: Record, certificate: Statement) -> None:
        """Write the entry of a certificate."""
        *folders, key = self.place
        for folder in folders:
            record = record.setdefault(folder, {})
        record[key] = self.write(certificate)

    def get(self, record: Record) -> Any:
        """Return the attribute; raises KeyError or ValueError."""
        value: Any = record
        for key in self.place:
            value = value[key]
        return self.read(value, record)

    def given(self, record: Record) -> bool:
        """Whether a document has the entry."""
        *folders, key = self.place
        for folder in folders:
            record = record[folder]
        return key in record


def _plain(name: str, *place: str) -> Field:
    return Field(place or (name,), attrgetter(name), name)


def _write_seed(seed: int | None) -> str:
    return f"0x{seed:016x}"


def _write_anchor(certificate: Statement) -> Record:
    anchor = certificate.anchor
    record: Record = {"kind": anchor.kind, "sha256": anchor.sha256}
    if anchor.kind == "served":
        served = {"n0": anchor.n0, "seed": _write_seed(anchor.seed), "seed_origin": anchor.seed_origin}
        record |= served
    if anchor.key_id is not None:
        record["key_id"] = anchor.key_id
    return record


def _read_anchor(value: Record, record: Record) -> Anchor:
    if (value["kind"] == "served") != all(key in value for key in ("n0", "seed", "seed_origin")):
        raise ValueError("a served anchor has n0, seed and seed_origin, a clean one has none of them")
    seed, origin = int(value["seed"], 16) if "seed" in value else None, value.get("seed_origin")
    key_id = _read_key_id(value["key_id"], value) if "key_id" in value else None
    return Anchor(value["kind"], value["sha256"], value.get("n0"), seed, origin, key_id)


def _read_key_id(value: str, beside: Record) -> str:
    if beside.get("seed_origin") != "secret":
        raise ValueError("only a seed of a secret has a key_id")
    return value


def _write_profile(certificate: Statement) -> Record:
    return {**certificate.profile.record(), "stages": list(certificate.profile.stages)}


def _read_profile(value: Record, record: Record) -> Profile:
    return Profile(**{**value, "stages": tuple(value["stages"])})


def _read_thresholds(values: list[float], record: Record) -> tuple[float, ...]:
    if any(v % SCORE_UNIT or not 0.5 < v <= 1.0 for v in values) or sorted(values, reverse=True) != values:
        raise ValueError("thresholds must be falling multiples of 2^-20 above 0.5")
    return tuple(float(v) for v in values)


def _write_constants(certificate: Statement) -> Record:
    found = certificate.constants
    return {"mean": found.mean, "caps": [p for _, p in found.caps], "perp": found.perp}


def _pack(scores: np.ndarray) -> str:
    return base64.b64encode(zlib.compress((scores / SCORE_UNIT).astype("<u4").tobytes(), 9)).decode()


def _unpack(text: str, record: Record, columns: int | None = None) -> np.ndarray:
    """Return [n, k] float64; where k is not given, it is what the bytes make of it."""
    n = record["certification"]["n"]
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), MAX_SCORE_BYTES)
    found, rest = divmod(len(content), 4 * n)
    whole = inflater.eof and not inflater.unused_data
    if not found or rest or columns not in (None, found) or not whole:
        after = len(inflater.unused_data)
        raise ValueError(
            f"wanted the scores of n = {n} samples, got {len(content)} bytes and {after} behind them"
        )
    scores = np.frombuffer(content, "<u4").astype(np.float64) * SCORE_UNIT
    if scores.max() > 1.0:
        raise ValueError("a score exceeds 1")
    return scores.reshape(n, -1)


# In the order of the document; the bounds, whose radii the writer chooses, stand before the versions.
BEFORE_BOUNDS = (
    Field(("format",), lambda c: "fsfast-certificate"),
    Field(("schema",), lambda c: SCHEMA_VERSION),
    _plain("engine", "engine", "name"),
    _plain("engine_digest", "engine", "digest"),
    _plain("random_weights", "engine", "random_weights"),
    _plain("function_id"),
    Field(("profile",), _write_profile, "profile", _read_profile),
    _plain("image_name", "image", "name"),
    _plain("grid_sha256", "image", "grid_sha256"),
    _plain("source", "image", "source"),
    Field(
        ("grid",),
        lambda c: {"height": c.grid[0], "width": c.grid[1]},
        "grid",
        lambda value, _: (value["height"], value["width"]),
    ),
    _plain("sigma"),
    Field(("noise", "version"), lambda c: 1),
    _plain("total_variation", "noise", "total_variation"),
    Field(("anchor",), _write_anchor, "anchor", _read_anchor),
    Field(("certification", "n"), lambda c: c.n),
    _plain("alpha", "certification", "alpha"),
    Field(("certification", "budget"), lambda c: asdict(c.budget)),
    _plain("method", "certification", "method"),
    Field(("certification", "seed"), lambda c: _write_seed(c.seed), "seed", lambda value, _: int(value, 16)),
    _plain("seed_origin", "certification", "seed_origin"),
    Field(
        ("certification", "key_id"),
        attrgetter("key_id"),
        "key_id",
        lambda value, record: _read_key_id(value, record["certification"]),
        only_if=lambda c: c.key_id is not None,
    ),
    Field(("certification", "pilot"), lambda c: PILOT),
    Field(
        ("certification", "stopping"),
        lambda c: asdict(c.stopping) if c.stopping else None,
        "stopping",
        lambda value, _: Stopping(**value) if value else None,
    ),
    Field(("thresholds",), lambda c: list(c.thresholds), "thresholds", _read_thresholds),
    Field(
        ("scores",),
        lambda c: _pack(c.scores),
        "scores",
        lambda value, record: _unpack(value, record, 1)[:, 0],
    ),
    _plain("perp_norm"),
    Field(("constants",), _write_constants),
)
AFTER_BOUNDS = (
    _plain("versions"),
    Field(
        ("token_scores",),
        lambda c: _pack(c.token_scores) if c.token_scores is not None else None,
        "token_scores",
        _unpack,
        only_if=lambda c: c.token_scores is not None,
    ),
)
FIELDS = (*BEFORE_BOUNDS, *AFTER_BOUNDS)
