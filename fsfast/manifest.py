"""What an engine says of itself: engine.json as frozen dataclasses, checked against the package's schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import fastjsonschema

from fsfast.images import Grid
from fsfast.schedule import Denoise

SCHEMA_VERSION = 1
STAGES = ("purifier", "encoder", "mapper")


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of an engine."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StageVariant:
    """One graph at one precision.

    Attributes:
        file: name of the ONNX graph.
        input, output: tensor names.
        batch: smallest and largest number of rows that the graph takes.
        tolerance: allowed deviation of the golden output, relative to its largest magnitude.
        parity: per batch size, the deviation from torch measured at export.
    """

    file: str
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
    def precisions(self) -> tuple[str, ...]:
        """Precisions in which every stage of the engine exists."""
        common = [set(variants) for variants in self.stages.values()]
        return tuple(p for p in self.weights if all(p in names for names in common))


@cache
def _validator(schema: str) -> Callable[[Any], Any]:
    text = resources.files("fsfast").joinpath("schemas", schema).read_text(encoding="utf-8")
    return fastjsonschema.compile(json.loads(text))


def check_schema(record: Any, schema: str) -> None:
    """Check a parsed JSON document against one of the package's schemas.

    Raises:
        ValueError: the document does not follow it; the message names the place.
    """
    try:
        _validator(schema)(record)
    except fastjsonschema.JsonSchemaValueException as error:
        raise ValueError(str(error)) from None


def _variant(entry: dict[str, Any]) -> StageVariant:
    return StageVariant(
        file=entry["file"],
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
        mean=tuple(record["normalise"]["mean"]),
        std=tuple(record["normalise"]["std"]),
        output=record["output"]["kind"],
        tokens=record["output"]["tokens"],
        dim=record["output"]["dim"],
        stages={
            stage: {p: _variant(v) for p, v in record["stages"][stage].items()}
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
    named |= {variant.file for variants in manifest.stages.values() for variant in variants.values()}
    if missing := sorted(named - manifest.files.keys()):
        raise ValueError(f"files named in the manifest but not listed under 'files': {', '.join(missing)}")
    if ("purifier" in manifest.stages) != (manifest.denoise is not None):
        raise ValueError("'denoise' must be given exactly when there is a purifier")
    if manifest.denoise is None and manifest.encoder_size != (manifest.grid.height, manifest.grid.width):
        raise ValueError("without a purifier the smoothing grid must have the encoder's input size")
    if manifest.pooled and manifest.tokens != 1:
        raise ValueError(f"pooled features have one token, the manifest says {manifest.tokens}")
    if not manifest.precisions:
        raise ValueError("no precision has all stages")
