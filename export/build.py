"""Build an engine, stage by stage: network → graph → weights file → parity; then the manifest."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save

from fsfast import __version__
from fsfast.engine.chain import Chain
from fsfast.engine.graph_check import check_graph
from fsfast.engine.manifest import SCHEMA_VERSION
from fsfast.engine.schedule import Denoise
from fsfast.engine.writer import check_target, save_engine
from fsfast.errors import EngineError
from fsfast.models import EfficientNetConfig

from .card import model_card
from .class_rows import CLASSES, ClassRows, read_classes, read_classifier
from .elsewhere import Elsewhere, elsewhere
from .graph import ExportedGraph, export_graph
from .half import round_weights, stored_as_float16
from .networks import Drawn, Network, Source, check_networks, encoder_config, encoder_size, feature_dim, fold
from .options import check_compare
from .parity import Step, Steps, check_parity, measure
from .published import Published
from .recipe import Recipe
from .recipe_values import ROUNDED
from .results import RESULTS, read_results
from .study import load_study
from .thresholds import gaussian_thresholds
from .weights import WeightsFile, point_into

# fp32 Attention of opset 23 fails in TensorRT-RTX; 21 keeps GroupNormalization whole.
OPSET = 21
PRECISION = "float32"
WEIGHTS = f"weights.{PRECISION}.safetensors"
# Of the largest output. Back ends order float32 sums differently: 1e-5 was the most seen; a wrong graph is off by far
# more, and no engine is written.
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
    source: Source | None = None,
    report: Callable[[str], None] = print,
) -> str:
    """Build the engine of a recipe at `path` and return its digest.

    Args:
        recipe: what to build.
        path: the engine's directory.
        force: replace an engine that stands there.
        micro_batch: parity is measured at batch sizes 1, 3 and this.
        compare: folders of runs with other seeds; the model card shows how far their results lie apart.
        source: of the networks, where the recipe does not say it.
        report: receives one line per step.

    Raises:
        ValueError: the recipe contradicts itself, or there are no results to compare.
        EngineError: something stands at `path`, or a graph computes something else than torch.
        CheckpointError: a file of weights cannot be used.
    """
    # Said before the minutes that an export may take, not after.
    check_target(path, force)
    if micro_batch < 1:
        raise ValueError(f"wanted a micro-batch of at least 1, got {micro_batch}")
    check_compare(recipe, compare)
    others = [read_results(Path(run)) for run in compare]
    said = recipe.card.read_text(encoding="utf-8") if recipe.card else ""
    study = load_study(recipe)
    source = source or study or (Drawn(recipe) if recipe.random else Published(recipe))
    check_networks(recipe)
    classes = _classes(recipe, source)
    if classes:
        encoder = None if recipe.outside else encoder_config(recipe)
        classes.check(recipe.output, feature_dim(recipe), encoder)
        classes = classes.stored(recipe.store)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Beside the engine: the weights may not fit where temporary files usually are.
    with tempfile.TemporaryDirectory(prefix=f".{Path(path).name}.", dir=Path(path).parent) as folder:
        record, files, built = _networks(recipe, source, Path(folder), micro_batch, report)
        results = {**study.results, "other_seeds": others} if study else None
        if study:
            record |= {
                "classes": {"names": list(study.class_names), "file": CLASSES},
                "results": RESULTS,
            }
            files |= {CLASSES: study.class_file(), RESULTS: json.dumps(results, indent=1).encode() + b"\n"}
        if classes:
            record, added = classes.into(record)
            files |= added
        parameters = {stage: result.parameters for stage, result in built.items()}
        others = built["encoder"].elsewhere
        files["model-card.md"] = model_card(record, parameters, results, others, said).encode()
        digest = save_engine(path, record, files, force=force)
    size = sum(entry.stat().st_size for entry in Path(path).iterdir())
    report(f"{path}: {size / 1e6:.1f} MB, digest {digest[:16]}…")
    return digest


def _classes(recipe: Recipe, source: Source) -> ClassRows | None:
    if recipe.classes:
        return read_classes(recipe.classes)
    if recipe.classifier is None or not isinstance(source, Published):
        return None
    config = encoder_config(recipe)
    if not isinstance(config, EfficientNetConfig):
        raise ValueError(
            f"recipe {recipe.name}: no loader reads the classifier of a {recipe.encoder}; give classes with rows"
        )
    return read_classifier(recipe.files["encoder"], config, recipe.classifier)


def _networks(
    recipe: Recipe, source: Source, folder: Path, micro_batch: int, report: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, bytes | Path], dict[str, _Built]]:
    """Export every stage, with the weights into `folder`; return manifest, files, and what was built."""
    size, grid = encoder_size(recipe), recipe.grid.size
    denoise = Denoise.at_sigma(recipe.sigma) if recipe.purifier is not None else None
    thresholds = gaussian_thresholds(recipe.sigma)
    chain = Chain.of(thresholds, denoise, (grid, size), recipe.mean, recipe.std)
    steps = Steps(chain, grid, sorted({1, 3, micro_batch}))
    weights = WeightsFile(folder)
    built = {stage: _stage(recipe, source, stage, steps, weights, report) for stage in recipe.stages}
    begin = weights.finish(folder / WEIGHTS)
    files: dict[str, bytes | Path] = {WEIGHTS: folder / WEIGHTS}
    for stage, result in built.items():
        graph = point_into(result.graph, result.offsets, begin, WEIGHTS)
        try:
            check_graph(graph, WEIGHTS)
        except ValueError as error:
            raise EngineError(f"the exported {stage} would not be opened: {error}") from None
        files[_file(stage)] = graph
    files["golden.safetensors"] = _golden({stage: result.step for stage, result in built.items()})
    files["noise.npy"] = _npy(thresholds)
    return _record(recipe, built, denoise, size), files, built


@dataclass(frozen=True)
class _Built:
    """What is kept of a stage; its weights are in the file."""

    graph: ExportedGraph
    offsets: dict[str, int]
    variant: dict[str, Any]
    architecture: dict[str, Any]
    provenance: dict[str, str]
    parameters: int
    step: Step
    elsewhere: list[Elsewhere]


def _stage(
    recipe: Recipe,
    source: Source,
    stage: str,
    way: Steps,
    weights: WeightsFile,
    report: Callable[[str], None],
) -> _Built:
    """Load, fold, export and measure one stage; only one stage's networks are in memory at a time."""
    report(f"{stage}: loading")
    network = fold(recipe, source.load(stage))
    half = recipe.store == "float16"
    if half:
        round_weights(network.module)
    steps = way.step(stage, network.module)
    report(f"{stage}: exporting")
    example = torch.from_numpy(steps[min(batch for batch in steps if batch > 1)][0][:2])
    graph = network.graph or export_graph(network.module, example, network.input, network.output, OPSET)
    if half:
        graph = stored_as_float16(graph, network.module.state_dict().keys())
    offsets = weights.add(stage, graph.weights)
    outside = network.graph is not None
    parameters = _parameters(graph) if outside else sum(p.numel() for p in network.module.parameters())
    network, graph = replace(network, module=torch.nn.Identity()), replace(graph, weights={})
    content = np.memmap(weights.data, np.uint8, "r")
    parity = measure(point_into(graph, offsets, 0, WEIGHTS), content, steps.values())
    for row in parity:
        report(f"{stage}: batch {row['batch']}: max |Δ| {row['max_abs']:.1e}, cosine {row['cosine']:.9f}")
    original = "the original" if outside else "torch"
    check_parity(stage, parity, steps.values(), TOLERANCE, original)
    others = elsewhere(point_into(graph, offsets, 0, WEIGHTS), content, steps) if outside else []
    origin, licence = source.provenance(stage)
    if half and not origin.endswith(ROUNDED):
        origin += ROUNDED
    provenance = {"stage": stage, "source": origin, "licence": licence}
    variant = _variant(_file(stage), network, steps[1], parity)
    return _Built(graph, offsets, variant, network.architecture, provenance, parameters, steps[1], others)


def _parameters(graph: ExportedGraph) -> int:
    floats = onnx.TensorProto.FLOAT
    return sum(prod(tensor.dims) for tensor in graph.model.graph.initializer if tensor.data_type == floats)


def _file(stage: str) -> str:
    return f"{stage}.{PRECISION}.onnx"


def _variant(file: str, network: Network, step: Step, parity: list[dict[str, float]]) -> dict[str, Any]:
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
    built: dict[str, _Built],
    denoise: Denoise | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    tokens, dim = built["encoder"].step[1].shape[1:]
    return {
        "format": "fsfast-engine",
        "schema": SCHEMA_VERSION,
        "name": recipe.name,
        "version": __version__,
        "sigma": recipe.sigma,
        "n0": recipe.n0,
        "random_weights": recipe.random or recipe.engine_random,
        "noise": {"version": 1, "file": "noise.npy"},
        "grid": recipe.grid.to_record(),
        "denoise": asdict(denoise) if denoise else None,
        "resize": {"height": size[0], "width": size[1], "kernel": "bicubic"},
        "normalise": {"mean": list(recipe.mean), "std": list(recipe.std)},
        "output": {"kind": recipe.output, "ln_post": recipe.ln_post, "tokens": tokens, "dim": dim},
        "stages": {stage: {PRECISION: result.variant} for stage, result in built.items()},
        "weights": {PRECISION: WEIGHTS},
        "golden": "golden.safetensors",
        "architecture": {stage: result.architecture for stage, result in built.items()},
        "provenance": [result.provenance for result in built.values()],
    }


def _golden(steps: dict[str, Step]) -> bytes:
    tensors = {}
    for stage, (x, y) in steps.items():
        tensors[f"{stage}.input"] = np.ascontiguousarray(x)
        tensors[f"{stage}.output"] = np.ascontiguousarray(y)
    return save(tensors, {"format": "fsfast-golden"})


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
