"""The model card of an engine as the Hugging Face Hub reads it: metadata in front, then the engine's own card."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from fsfast.engine.engine import Engine
from fsfast.engine.hub import HubReference, hub_package
from fsfast.errors import EngineError

CARD = "model-card.md"
_TAGS = ("fsfast", "feature-space-smoothing", "randomized-smoothing", "certified-robustness", "onnx")
# As the Hub knows them; others are named in words.
_LICENCES = {
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "gemma",
    "other",
}
# Stages beside the encoder → the row of a training run's results.
_ROWS = {
    (): "encoder alone",
    ("mapper",): "+ mapper",
    ("purifier",): "+ purifier",
    ("purifier", "mapper"): "+ both",
}


def hub_card(engine: Engine, repo: str) -> str:
    """Return README.md for a repository that holds an engine.

    Args:
        engine: to describe.
        repo: owner/name.

    Raises:
        BackendUnavailable: huggingface_hub is missing, which writes the metadata.
        EngineError: the results in the engine are none.
    """
    manifest, hub = engine.manifest, hub_package()
    results = _results(engine)
    data = hub.ModelCardData(
        **_licence(manifest.record["provenance"]),
        library_name="fsfast",
        pipeline_tag="image-feature-extraction",
        tags=[*_TAGS, *(["random-weights"] if manifest.random_weights else [])],
        metrics=["accuracy"] if results else None,
        model_name=manifest.name if results else None,
        eval_results=[hub.EvalResult(**row) for row in results] or None,
    )
    body = engine.read(CARD).decode() if CARD in manifest.files else f"# {manifest.name}\n"
    return f"---\n{data.to_yaml()}\n---\n\n{body.rstrip()}\n\n{_use(engine, repo)}"


def _use(engine: Engine, repo: str) -> str:
    reference = HubReference(repo, digest=engine.digest)
    return "\n".join(
        [
            "## Use",
            "",
            "```python",
            "import fsfast",
            "",
            f'encoder = fsfast.SmoothedEncoder("{reference}")',
            'out = encoder.encode("photo.jpg")',
            'certificate = encoder.certify("photo.jpg", served=out)',
            "```",
            "",
            "The part behind # is the digest of the engine: no other one is opened by this name.",
            "",
        ]
    )


def _licence(provenance: list[dict[str, str]]) -> dict[str, str]:
    """Return the licence of all networks together, in the Hub's words where they are all under one that it knows."""
    said = list(dict.fromkeys(part["licence"] for part in provenance))
    # "Apache-2.0 (© 2020 …)" is Apache-2.0.
    known = {licence.partition(" (")[0].lower() for licence in said}
    if len(known) == 1 and known <= _LICENCES:
        return {"license": known.pop()}
    return {"license": "other", "license_name": "; ".join(said) or "unknown"}


def _results(engine: Engine) -> list[dict[str, Any]]:
    """Return what the training measured of these stages, as the Hub's evaluation results; raises EngineError."""
    file = engine.manifest.record.get("results")
    if file is None:
        return []
    try:
        return _measured(json.loads(engine.read(file)), engine.manifest.stages)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise EngineError(
            f"{engine.path}: {file} holds no results of a training run of these stages: {error!r}"
        ) from None


def _measured(record: dict[str, Any], stages: Collection[str]) -> list[dict[str, Any]]:
    name = _ROWS[tuple(stage for stage in ("purifier", "mapper") if stage in stages)]
    row = next(row for row in record["rows"] if row["name"] == name)
    attack = f"ℓ∞ {record['attack']['radius']:g}/255, {record['attack']['steps']} steps"
    values = {
        f"accuracy (n0 = {record['n0']}, σ = {record['sigma']:g})": row["accuracy"],
        f"accuracy under an attack on the plain encoder ({attack})": row["attack_accuracy"],
    }
    if row is record["rows"][-1]:
        values[f"accuracy under an attack on the whole defence ({attack})"] = record["adaptive"]["accuracy"]
    common = {
        "task_type": "image-classification",
        "dataset_type": f"sha256-{record['test_digest'][:16]}",
        "dataset_name": f"{record['images']} pictures that training never saw",
        "metric_type": "accuracy",
    }
    return [common | {"metric_name": name, "metric_value": value} for name, value in values.items()]
