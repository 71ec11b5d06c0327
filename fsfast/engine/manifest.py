"""What an engine says of itself: engine.json as frozen dataclasses, checked against the package's schema."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fsfast.engine.schedule import Denoise
from fsfast.images.grid import Grid
from fsfast.strict_json import check_schema

SCHEMA_VERSION = 1
STAGES = ("purifier", "encoder", "mapper")
# tokens·dim of one image: 64 MiB of float32, and many times that in sums over samples.
MAX_FEATURE_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of an engine."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StageVariant:
    """One graph at one precision.

    Attributes:
        file: name of the ONNX graph; variants may share one.
        weights: name of the file that its external data points into.
        arithmetic: what its floating-point operations are computed in: "float32", as the graph says, or
            "bfloat16", which a back end then has to be able to do with a float32 graph.
        input, output: tensor names.
        batch: smallest and largest number of rows that the graph takes.
        tolerance: allowed deviation of the golden output, relative to its largest magnitude.
        parity: per batch size, the deviation from torch measured at export.
    """

    file: str
    weights: str
    arithmetic: str
    input: str
    output: str
    batch: tuple[int, int]
    tolerance: float
    parity: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Manifest:
    """An engine's description; field names follow `schemas/engine.schema.json`.

    Attributes:
        sigma: noise level in [0,1] pixel units.
        grid: the smoothing grid.
        denoise: coefficients of the purifier's one step, or None without a purifier.
        encoder_size: (height, width) of the encoder's input.
        mean, std: channel normalisation of the encoder's input, [0,1] units.
        tokens, dim: L and D of the features; L = 1 when pooled.
        stages: stage name → precision → graph.
        weights: precision → weights file.
        files: name → size and hash of every file but engine.json itself.
        record: the parsed JSON, for display.
    """

    name: str
    version: str
    sigma: float
    n0: int
    random_weights: bool
    noise_file: str
    grid: Grid
    denoise: Denoise | None
    encoder_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: str
    tokens: int
    dim: int
    stages: dict[str, dict[str, StageVariant]]
    weights: dict[str, str]
    golden: str
    files: dict[str, FileEntry]
    record: dict[str, Any]

    @property
    def pooled(self) -> bool:
        """Whether the features are one vector per image."""
        return self.output == "pooled"

    @property
    def known_in_torch(self) -> bool:
        """Whether all networks can be rebuilt as torch modules; an encoder that came as an ONNX graph cannot."""
        return all(
            architecture.get("type") != "onnx" for architecture in self.record["architecture"].values()
        )

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions in which every stage of the engine exists."""
        common = [set(variants) for variants in self.stages.values()]
        return tuple(p for p in self.weights if all(p in names for names in common))

    @property
    def computed_in_float32(self) -> tuple[str, ...]:
        """Those of `precisions` whose floating-point operations are all float32's."""
        return tuple(
            p for p in self.precisions if all(v[p].arithmetic == "float32" for v in self.stages.values())
        )

    def rows(self, precision: str) -> tuple[int, int]:
        """Return the smallest and the largest number of rows that all graphs of a precision take."""
        ranges = [variants[precision].batch for variants in self.stages.values()]
        return max(low for low, _ in ranges), min(high for _, high in ranges)


def _integers(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what must be an int; the schema lets 4.0 pass as an integer, and true as 1."""
    yield "schema", record["schema"]
    yield "n0", record["n0"]
    yield "noise.version", record["noise"]["version"]
    for part in ("grid", "resize"):
        yield f"{part}.height", record[part]["height"]
        yield f"{part}.width", record[part]["width"]
    if record["denoise"]:
        yield "denoise.t", record["denoise"]["t"]
    for key in ("tokens", "dim"):
        yield f"output.{key}", record["output"][key]
    for stage, variants in record["stages"].items():
        for precision, entry in variants.items():
            place = f"stages.{stage}.{precision}"
            sizes = [size for end in ("input", "output") for size in entry[end]["shape"][1:]]
            for value in (entry["opset"], *entry["batch"], *sizes):
                yield f"each number of opset, batch and shape of {place}", value
    for name, entry in record["files"].items():
        yield f"files.{name}.bytes", entry["bytes"]


def _floats(values: list[Any]) -> tuple[float, float, float]:
    r, g, b = (float(value) for value in values)
    return r, g, b


def _variant(entry: dict[str, Any], weights: str) -> StageVariant:
    return StageVariant(
        file=entry["file"],
        weights=entry.get("weights", weights),
        arithmetic=entry.get("arithmetic", "float32"),
        input=entry["input"]["name"],
        output=entry["output"]["name"],
        batch=(entry["batch"][0], entry["batch"][1]),
        tolerance=entry["tolerance"],
        parity=tuple(entry["parity"]),
    )


def parse_manifest(record: dict[str, Any]) -> Manifest:
    """Turn the parsed engine.json into a Manifest.

    Raises:
        ValueError: the document does not follow the schema or contradicts itself.
    """
    check_schema(record, "engine.schema.json")
    for place, value in _integers(record):
        if type(value) is not int:
            raise ValueError(f"{place} must be written as an integer, got {value!r}")
    manifest = Manifest(
        name=record["name"],
        version=record["version"],
        sigma=float(record["sigma"]),
        n0=record["n0"],
        random_weights=record["random_weights"],
        noise_file=record["noise"]["file"],
        grid=Grid(**record["grid"]),
        denoise=Denoise(**record["denoise"]) if record["denoise"] else None,
        encoder_size=(record["resize"]["height"], record["resize"]["width"]),
        mean=_floats(record["normalise"]["mean"]),
        std=_floats(record["normalise"]["std"]),
        output=record["output"]["kind"],
        tokens=record["output"]["tokens"],
        dim=record["output"]["dim"],
        stages={
            stage: {p: _variant(v, record["weights"].get(p, "")) for p, v in record["stages"][stage].items()}
            for stage in STAGES
            if stage in record["stages"]
        },
        weights=record["weights"],
        golden=record["golden"],
        files={name: FileEntry(**entry) for name, entry in record["files"].items()},
        record=record,
    )
    _check_consistent(manifest)
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    """Refuse what the schema cannot express."""
    named = {manifest.noise_file, manifest.golden, *manifest.weights.values()}
    for variants in manifest.stages.values():
        named |= {file for variant in variants.values() for file in (variant.file, variant.weights) if file}
    if "classes" in manifest.record:
        named.add(manifest.record["classes"]["file"])
    if "results" in manifest.record:
        named.add(manifest.record["results"])
    if missing := sorted(named - manifest.files.keys()):
        raise ValueError(f"files named in the manifest but not listed under 'files': {', '.join(missing)}")
    if ("purifier" in manifest.stages) != (manifest.denoise is not None):
        raise ValueError("'denoise' must be given exactly when there is a purifier")
    if manifest.denoise is None and manifest.encoder_size != manifest.grid.size:
        raise ValueError("without a purifier the smoothing grid must have the encoder's input size")
    _check_numbers(manifest)
    if manifest.pooled and manifest.tokens != 1:
        raise ValueError(f"pooled features have one token, the manifest says {manifest.tokens}")
    if not manifest.precisions:
        raise ValueError("no precision has all stages")


def _check_numbers(manifest: Manifest) -> None:
    variants = [variant for stage in manifest.stages.values() for variant in stage.values()]
    tolerances = [variant.tolerance for variant in variants]
    if not all(map(math.isfinite, (manifest.sigma, *manifest.mean, *manifest.std, *tolerances))):
        raise ValueError("sigma, mean, std and tolerance must be finite")
    if manifest.tokens * manifest.dim > MAX_FEATURE_ELEMENTS:
        raise ValueError(
            f"wanted features of at most {MAX_FEATURE_ELEMENTS} elements, "
            f"got {manifest.tokens} tokens of {manifest.dim}"
        )
    for variant in variants:
        if variant.batch[0] > variant.batch[1]:
            raise ValueError(
                f"{variant.file}: batch {list(variant.batch)} is empty; wanted [smallest, largest]"
            )
    if manifest.denoise is None:
        return
    wanted = Denoise.at_sigma(manifest.sigma)
    alpha_bar = manifest.denoise.alpha_bar
    if manifest.denoise.t != wanted.t or not math.isclose(alpha_bar, wanted.alpha_bar, rel_tol=1e-12):
        raise ValueError(
            f"wanted the purifier's step for sigma = {manifest.sigma}, {wanted}, got {manifest.denoise}"
        )
