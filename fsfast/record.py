"""The certificate: its claim, its file, and what a replay found."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fsfast.backends import Profile
from fsfast.bounds import MeanMethod, mean_lower_bound
from fsfast.certificate import CosineMethod, cosine_lower_bound, radius
from fsfast.errors import CertificateError
from fsfast.files import write_whole
from fsfast.manifest import check_schema
from fsfast.sampling import SeedOrigin
from fsfast.strict_json import parse_json

SCHEMA_VERSION = 1
# Radii at which a certificate file states its bounds, in units of σ.
STATED_RADII = (0.25, 0.5, 1.0, 1.5, 2.0)
_SCORE_UNIT = 2.0**-20
# Numbers derived elsewhere may differ by rounding, never by more than this.
_ROUNDING = 1e-9
# A certificate of 10⁷ samples stays below it.
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Anchor:
    """The fixed direction u that a certificate is about.

    Attributes:
        kind: "served" (mean of the unit features of the n0 serving samples) or "clean" (vanilla encoder).
        sha256: hash of its [L, D] float32 directions.
        n0, seed, seed_origin: the serving samples; None for "clean".
    """

    kind: str
    sha256: str
    n0: int | None = None
    seed: int | None = None
    seed_origin: SeedOrigin | None = None


@dataclass(frozen=True, eq=False)
class Certificate:
    """With probability ≥ 1 − alpha over the certification noise: for every image x' on the grid within ℓ2
    distance ε of x, Cos(f̂(x'), u) ≥ `cosine(ε)`. f̂ is the smoothed encoder, u the anchor.

    It speaks about the image on the engine's grid, not about the file before resizing.

    Attributes:
        scores: [n] float64, multiples of 2⁻²⁰, rounded down.
        total_variation: η, subtracted from the score bound.
        n, alpha, method: samples, error probability, confidence bound of the mean.
        seed, seed_origin: certification noise; "replay" marks a seed chosen by the caller, who could have
            searched for a lucky one.
        image_name, grid_sha256, source: which image, and how it came onto the grid.
    """

    engine: str
    engine_digest: str
    random_weights: bool
    function_id: str
    profile: Profile
    image_name: str | None
    grid_sha256: str
    source: dict[str, Any]
    grid: tuple[int, int]
    sigma: float
    total_variation: float
    anchor: Anchor
    alpha: float
    method: MeanMethod
    seed: int
    seed_origin: SeedOrigin
    scores: np.ndarray
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Bounds are computed from the scores once; who could change them afterwards would be misled.
        self.scores.setflags(write=False)

    @property
    def n(self) -> int:
        """Number of certification samples."""
        return len(self.scores)

    @cached_property
    def score_lower_bound(self) -> float:
        """S_L: with probability ≥ 1 − alpha the mean score is at least this; η is taken off."""
        bound = float(mean_lower_bound(self.scores, self.alpha, self.method))
        return max(0.0, float(np.nextafter(bound - self.total_variation, -1.0)))

    @property
    def mean_score(self) -> float:
        """The sample mean of the scores (no confidence)."""
        return float(self.scores.mean())

    def cosine(self, epsilon: float, method: CosineMethod = "fcsb") -> float | None:
        """Return the lower bound of the cosine at ℓ2 radius `epsilon` ([0,1] units), or None: no certificate.

        `method="paper"` gives the paper's plug-in number instead: it has no confidence bound and is **not a
        certificate**.

        Raises:
            ValueError: epsilon negative or not finite, unknown method.
        """
        if not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"wanted a radius ε ≥ 0 in [0,1] pixel units, got {epsilon}")
        mean = self.mean_score if method == "paper" else self.score_lower_bound
        return cosine_lower_bound(epsilon / self.sigma, mean=mean, method=method)

    def radius(self, cosine: float, method: CosineMethod = "fcsb") -> float:
        """Return the largest ℓ2 radius ([0,1] pixel units) certified for `cosine`, 0.0 if there is none.

        Raises:
            ValueError: cosine outside (0, 1], unknown method.
        """
        mean = self.mean_score if method == "paper" else self.score_lower_bound
        return radius(cosine, sigma=self.sigma, mean=mean, method=method)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_record(), indent=1, ensure_ascii=False).encode() + b"\n")

    def to_record(self) -> dict[str, Any]:
        """Return the certificate as a JSON document; `schemas/certificate.schema.json` describes it."""
        anchor: dict[str, Any] = {"kind": self.anchor.kind, "sha256": self.anchor.sha256}
        if self.anchor.kind == "served":
            anchor["n0"] = self.anchor.n0
            anchor["seed"] = _hex(self.anchor.seed)
            anchor["seed_origin"] = self.anchor.seed_origin
        return {
            "format": "fsfast-certificate",
            "schema": SCHEMA_VERSION,
            "engine": {
                "name": self.engine,
                "digest": self.engine_digest,
                "random_weights": self.random_weights,
            },
            "function_id": self.function_id,
            "profile": {**asdict(self.profile), "stages": list(self.profile.stages)},
            "image": {"name": self.image_name, "grid_sha256": self.grid_sha256, "source": self.source},
            "grid": {"height": self.grid[0], "width": self.grid[1]},
            "sigma": self.sigma,
            "noise": {"version": 1, "total_variation": self.total_variation},
            "anchor": anchor,
            "certification": {
                "n": self.n,
                "alpha": self.alpha,
                "method": self.method,
                "seed": _hex(self.seed),
                "seed_origin": self.seed_origin,
            },
            "scores": _pack(self.scores),
            "score_lower_bound": self.score_lower_bound,
            "bounds": self._stated_bounds(),
            "versions": self.versions,
        }

    def _stated_bounds(self) -> list[dict[str, Any]]:
        radii = [factor * self.sigma for factor in STATED_RADII]
        return [{"epsilon": r, "cosine": self.cosine(r), "method": "fcsb"} for r in radii]

    def __repr__(self) -> str:
        radii = [0.5 * self.sigma, self.sigma]
        bounds = ", ".join(f"{_show(self.cosine(r))} at ε = {r:g}" for r in radii)
        return (
            f"Certificate({self.image_name or 'image'}: cosine ≥ {bounds}; n = {self.n}, α = {self.alpha:g}"
            f"{'; random weights' if self.random_weights else ''})"
        )


@dataclass(frozen=True)
class Verification:
    """What a replay found.

    Attributes:
        verdict: "same", "different", or "cannot be checked bit for bit here".
        details: what differs, or why bits cannot be compared; empty for "same".
        deviation: largest difference between a stored and a replayed score, or None if there was no replay.
    """

    verdict: str
    details: tuple[str, ...] = ()
    deviation: float | None = None

    def __bool__(self) -> bool:
        return self.verdict == "same"


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Round scores down to multiples of 2⁻²⁰: what a certificate stores and its bounds are computed from."""
    return np.floor(scores / _SCORE_UNIT) * _SCORE_UNIT


def anchor_hash(unit: np.ndarray) -> str:
    """Return the hash of [L, D] float32 directions."""
    return hashlib.sha256(np.ascontiguousarray(unit, "<f4").tobytes()).hexdigest()


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
    try:
        check_schema(record, "certificate.schema.json")
        certificate = _from_record(record)
        again = certificate.to_record()
    except (ValueError, TypeError, KeyError, OverflowError, zlib.error) as error:
        raise CertificateError(f"{name} is malformed: {error}") from None
    if certificate.profile.function_id(certificate.engine_digest) != certificate.function_id:
        raise CertificateError(f"{name} was altered: its function_id is not that of its engine and profile")
    if not _states_no_more(record, again):
        raise CertificateError(f"{name} was altered: its stated bounds do not follow from its scores")
    return certificate


def _states_no_more(record: dict[str, Any], again: dict[str, Any]) -> bool:
    """Whether a record says what was computed from it again, and its bounds no more than that.

    Other processors and versions of NumPy round the last bits of logarithms differently, and the same scores
    may compress to other bytes; both are honest.
    """
    derived = ("score_lower_bound", "bounds", "scores")
    if any(record[key] != again[key] for key in again if key not in derived):
        return False
    stated = [{**bound, "cosine": bound["cosine"] or 0.0} for bound in record["bounds"]]
    found = [{**bound, "cosine": bound["cosine"] or 0.0} for bound in again["bounds"]]
    pairs = [(record["score_lower_bound"], again["score_lower_bound"])]
    if [(b["epsilon"], b["method"]) for b in stated] != [(b["epsilon"], b["method"]) for b in found]:
        return False
    pairs += [(s["cosine"], f["cosine"]) for s, f in zip(stated, found, strict=True)]
    return all(s <= f + _ROUNDING for s, f in pairs)


def _from_record(record: dict[str, Any]) -> Certificate:
    anchor, certification = record["anchor"], record["certification"]
    served = anchor["kind"] == "served"
    if served != all(key in anchor for key in ("n0", "seed", "seed_origin")):
        raise ValueError("a served anchor has n0, seed and seed_origin, a clean one has none of them")
    numbers = (certification["n"], record["grid"]["height"], record["grid"]["width"], anchor.get("n0", 1))
    if not all(type(number) is int for number in (*numbers, record["profile"]["micro_batch"])):
        raise ValueError("counts must be written as integers")
    return Certificate(
        engine=record["engine"]["name"],
        engine_digest=record["engine"]["digest"],
        random_weights=record["engine"]["random_weights"],
        function_id=record["function_id"],
        profile=Profile(**{**record["profile"], "stages": tuple(record["profile"]["stages"])}),
        image_name=record["image"]["name"],
        grid_sha256=record["image"]["grid_sha256"],
        source=record["image"]["source"],
        grid=(record["grid"]["height"], record["grid"]["width"]),
        sigma=record["sigma"],
        total_variation=record["noise"]["total_variation"],
        anchor=Anchor(
            kind=anchor["kind"],
            sha256=anchor["sha256"],
            n0=anchor.get("n0"),
            seed=int(anchor["seed"], 16) if "seed" in anchor else None,
            seed_origin=anchor.get("seed_origin"),
        ),
        alpha=certification["alpha"],
        method=certification["method"],
        seed=int(certification["seed"], 16),
        seed_origin=certification["seed_origin"],
        scores=_unpack(record["scores"], certification["n"]),
        versions=record["versions"],
    )


def _hex(seed: int | None) -> str:
    return f"0x{seed:016x}"


def _show(bound: float | None) -> str:
    return "none" if bound is None else f"{bound:.3f}"


def _pack(scores: np.ndarray) -> str:
    return base64.b64encode(zlib.compress((scores / _SCORE_UNIT).astype("<u4").tobytes(), 9)).decode()


def _unpack(text: str, n: int) -> np.ndarray:
    wanted = 4 * n
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), wanted + 1)
    if len(content) != wanted or not inflater.eof:
        raise ValueError(f"wanted the scores of n = {n} samples, got {len(content)} bytes")
    scores = np.frombuffer(content, "<u4").astype(np.float64) * _SCORE_UNIT
    if scores.max() > 1.0:
        raise ValueError("a score exceeds 1")
    return scores
