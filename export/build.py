"""Build an engine: networks → graphs → one weights file → parity → golden outputs → manifest."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from export.card import model_card
from export.graph import export_graph
from export.networks import Network, build_networks, encoder_size
from export.parity import Chain, measure
from export.recipe import Recipe
from export.study import Study, load_study, read_results
from export.thresholds import gaussian_thresholds
from export.weights import pack_weights, point_into
from fsfast import __version__
from fsfast.engine_writer import check_target, save_engine
from fsfast.manifest import SCHEMA_VERSION
from fsfast.schedule import Denoise

# fp32 Attention of opset 23 fails in TensorRT-RTX; 21 keeps GroupNormalization whole.
OPSET = 21
PRECISION = "float32"
WEIGHTS = f"weights.{PRECISION}.safetensors"
CLASSES = "classes.safetensors"
RESULTS = "results.json"
# Back ends order float32 sums differently: 1e-5 relative was the most seen; a wrong graph is off by far more.
TOLERANCE = 1e-4
# More rows per run only cost memory.
MAX_BATCH = 1024


def build_engine(
    recipe: Recipe,
    path: str | Path,
    *,
    force: bool = False,
    micro_batch: int = 4,
    compare: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> str:
    """Build the engine of a recipe at `path` and return its digest.

    Args:
        recipe: what to build.
        path: the engine's directory.
        force: replace an engine that stands there.
        micro_batch: parity is measured at batch sizes 1, 3 and this.
        compare: folders of runs with other seeds; the model card shows how far their results lie apart.
        report: receives one line per step.

    Raises:
        ValueError: the recipe contradicts itself.
        EngineError: something stands at `path`.
    """
    # Said before the minutes that an export may take, not after.
    check_target(path, force)
    if micro_batch < 1:
        raise ValueError(f"wanted a micro-batch of at least 1, got {micro_batch}")
    study = load_study(recipe)
    networks = build_networks(recipe, study.fill if study else None)
    side = encoder_size(recipe)
    if recipe.purifier is None and (recipe.grid.height, recipe.grid.width) != (side, side):
        raise ValueError(
            f"without a purifier the grid must be the encoder's input size, {side}×{side}; "
            f"the recipe says {recipe.grid.height}×{recipe.grid.width}"
        )
    denoise = Denoise.at_sigma(recipe.sigma) if "purifier" in networks else None
    thresholds = gaussian_thresholds(recipe.sigma)
    grid = (recipe.grid.height, recipe.grid.width)
    chain = Chain(networks, thresholds, denoise, grid, (side, side), recipe.mean, recipe.std)
    steps = {batch: chain.run(batch) for batch in sorted({1, 3, micro_batch})}
    exported = {}
    for stage, network in networks.items():
        report(f"{stage}: exporting")
        example = torch.from_numpy(steps[3][stage][0][:2])
        exported[stage] = export_graph(network.module, example, network.input, network.output, OPSET)
    weights = pack_weights(exported)
    stages, files = {}, {WEIGHTS: weights}
    for stage, graph in exported.items():
        file = f"{stage}.{PRECISION}.onnx"
        files[file] = point_into(graph, stage, weights, WEIGHTS)
        parity = measure(files[file], weights, [steps[batch][stage] for batch in steps])
        for row in parity:
            report(f"{stage}: batch {row['batch']}: max |Δ| {row['max_abs']:.1e}, cosine {row['cosine']:.9f}")
        stages[stage] = {PRECISION: _variant(file, networks[stage], steps[1][stage], parity)}
    files["golden.safetensors"] = _golden(steps[1])
    files["noise.npy"] = _npy(thresholds)
    record = _record(recipe, networks, denoise, side, stages, steps[1], study)
    results = None
    if study:
        results = {**study.results, "other_seeds": [read_results(Path(run)) for run in compare]}
        files |= {CLASSES: study.class_file(), RESULTS: json.dumps(results, indent=1).encode() + b"\n"}
    files["model-card.md"] = model_card(record, networks, results).encode()
    digest = save_engine(path, record, files, force=force)
    report(f"{path}: {sum(map(len, files.values())) / 1e6:.1f} MB, digest {digest[:16]}…")
    return digest


def _variant(
    file: str, network: Network, step: tuple[np.ndarray, np.ndarray], parity: list[dict[str, float]]
) -> dict[str, Any]:
    def tensor(name: str, value: np.ndarray) -> dict[str, Any]:
        return {"name": name, "dtype": PRECISION, "shape": ["M", *value.shape[1:]]}

    return {
        "file": file,
        "opset": OPSET,
        "input": tensor(network.input, step[0]),
        "output": tensor(network.output, step[1]),
        "batch": [1, MAX_BATCH],
        "parity": parity,
        "tolerance": TOLERANCE,
    }


def _record(
    recipe: Recipe,
    networks: dict[str, Network],
    denoise: Denoise | None,
    side: int,
    stages: dict[str, Any],
    steps: dict[str, tuple[np.ndarray, np.ndarray]],
    study: Study | None,
) -> dict[str, Any]:
    tokens, dim = steps["encoder"][1].shape[1:]
    source = study.source if study else f"random weights, seed {recipe.random_seed}; never trained"
    trained = (
        {"classes": {"names": list(study.class_names), "file": CLASSES}, "results": RESULTS} if study else {}
    )
    return {
        "format": "fsfast-engine",
        "schema": SCHEMA_VERSION,
        "name": recipe.name,
        "version": __version__,
        "sigma": recipe.sigma,
        "n0": recipe.n0,
        "random_weights": study is None,
        "noise": {"version": 1, "file": "noise.npy"},
        "grid": asdict(recipe.grid),
        "denoise": asdict(denoise) if denoise else None,
        "resize": {"height": side, "width": side, "kernel": "bicubic"},
        "normalise": {"mean": list(recipe.mean), "std": list(recipe.std)},
        "output": {"kind": recipe.output, "ln_post": recipe.ln_post, "tokens": tokens, "dim": dim},
        "stages": stages,
        "weights": {PRECISION: WEIGHTS},
        "golden": "golden.safetensors",
        "architecture": {stage: network.architecture for stage, network in networks.items()},
        "provenance": [{"stage": stage, "source": source, "licence": recipe.licence} for stage in stages],
        **trained,
    }


def _golden(steps: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    tensors = {}
    for stage, (x, y) in steps.items():
        tensors[f"{stage}.input"] = np.ascontiguousarray(x)
        tensors[f"{stage}.output"] = np.ascontiguousarray(y)
    return save(tensors, {"format": "fsfast-golden"})


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
