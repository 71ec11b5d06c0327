"""Weights from files: published checkpoints, and what `python -m train` wrote; all are looked at before any is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from fsfast.models import (
    Denoiser,
    EfficientNetConfig,
    Loaded,
    load_efficientnet,
    load_encoder,
    load_mapper,
    load_purifier,
)

from .engine_networks import EngineNetworks
from .engine_recipe import is_engine
from .networks import PURIFIERS, check_grid, encoder_config, encoder_record, feature_dim
from .options import in_run, needs
from .preparation import check_preparation
from .recipe import Recipe
from .results import RESULTS

_ADM256_FILE, _ADM256_LICENCE = "256x256_diffusion_uncond.pt", "MIT"
_UNSTATED = "not stated (fsfast export --licence says it)"


class Published:
    """The files that a recipe names: names and shapes are checked at once, values read when a stage is built.

    Args:
        recipe: what to build, with its files.

    Raises:
        CheckpointError: a file cannot be used; see fsfast.models.checkpoints.
        ValueError: a file is missing, or its weights do not go together with the recipe: another σ, other channels,
            another output, another encoder.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._licences = {"encoder": recipe.licence}
        self._sources: dict[str, str] = {}
        self._paths = {}
        for need in needs(recipe):
            if need.path is None:
                remedy = (
                    ""
                    if need.stage == "encoder"
                    else f", or leave the {need.stage} out (--{need.stage} none)"
                )
                raise ValueError(
                    f"recipe {recipe.name} wants the {need.stage}'s weights: {need.option}{remedy}; get them as "
                    f"{need.places[0]}. --dry-run lists all, --random-weights builds without"
                )
            if need.missing:
                raise ValueError(
                    f"wanted the {need.stage}'s weights at {need.path}, found nothing; get them as {need.places[0]}"
                )
            self._paths[need.stage] = in_run(need.path, need.stage)
        # An encoder that is a graph alone is not among the needs.
        own = {stage: path for stage, path in recipe.files.items() if path == recipe.engine}
        self._engines = {
            stage: EngineNetworks(path, stage, recipe)
            for stage, path in (own | self._paths).items()
            if is_engine(path)
        }
        self._hashes = {stage: engine.hashes(stage) for stage, engine in self._engines.items()}
        files = {stage: path for stage, path in self._paths.items() if stage not in self._engines}
        for stage in ("purifier", "mapper"):
            if stage in files:
                _check_sigma(files[stage], stage, recipe.sigma)
        if "mapper" in files:
            _check_tokens(files["mapper"], recipe)
        for stage, path in files.items():
            getattr(self, f"_{stage}")(path, values=False)

    def load(self, stage: str) -> nn.Module:
        """Return a stage's module with the weights of its file.

        Raises:
            CheckpointError: values are not finite, or the file changed.
            EngineError: an engine's networks cannot be built.
        """
        if (engine := self._engines.get(stage)) is not None:
            self._sources[stage], self._licences[stage] = engine.provenance(stage)
            return engine.load(stage)
        loaded = getattr(self, f"_{stage}")(self._paths[stage])
        self._hashes[stage] = sorted(file.sha256 for file in loaded.files)
        if stage == "encoder" and self.recipe.sha256 not in (None, *self._hashes[stage]):
            # Another file than the one that the recipe's licence is about.
            self._licences[stage] = ""
        files = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in loaded.files)
        self._sources[stage] = "; ".join([f"{loaded.layout} layout: {files}", *loaded.notes])
        module: nn.Module = loaded.module
        return module

    def provenance(self, stage: str) -> tuple[str, str]:
        """Return layout, file names, hashes and notes of a stage that was loaded, and its licence."""
        return self._sources[stage], self.licence(stage)

    def licence(self, stage: str) -> str:
        """Return the licence of a stage's weights, or that none is stated."""
        return self.recipe.licences.get(stage) or self._licences.get(stage) or _UNSTATED

    def hashes(self, stage: str) -> list[str]:
        """Return the sha256 of every file that a stage was loaded from, hex, in their own order."""
        return self._hashes[stage]

    def _purifier(self, path: Path, *, values: bool = True) -> Loaded[Denoiser]:
        # Not a known preset: recognised by its shapes.
        preset = PURIFIERS.get(self.recipe.purifier or "")
        loaded = load_purifier(path, preset, weights=self.recipe.weights.get("purifier"), values=values)
        check_grid(self.recipe, loaded.module.config, f"the purifier {path}")
        if loaded.files and loaded.files[0].name == _ADM256_FILE:
            self._licences["purifier"] = _ADM256_LICENCE
        return loaded

    def _encoder(self, path: Path, *, values: bool = True) -> Any:
        config = encoder_config(self.recipe)
        weights = self.recipe.weights.get("encoder")
        if isinstance(config, EfficientNetConfig):
            return load_efficientnet(path, config, weights=weights, values=values)
        loaded = load_encoder(
            path,
            config,
            resize_positions=self.recipe.resize_positions,
            weights=weights,
            values=values,
        )
        check_preparation(self.recipe, path, loaded.preparation)
        if self.recipe.output == "pooled" and config.projection and not loaded.projection:
            raise ValueError(
                f"{path}: pooled output wants the projection, which this checkpoint lacks; take the whole CLIP "
                "(CLIPModel, or CLIPVisionModelWithProjection), or choose --output penultimate"
            )
        return loaded

    def _mapper(self, path: Path, *, values: bool = True) -> Any:
        loaded = load_mapper(path, weights=self.recipe.weights.get("mapper"), values=values)
        dim = feature_dim(self.recipe)
        if loaded.module.dim != dim:
            raise ValueError(
                f"wanted a mapper for the {dim} channels of {self.recipe.encoder}'s {self.recipe.output} output, got "
                f"one for {loaded.module.dim} in {path}; give the one that was trained behind this encoder"
            )
        return loaded


def _check_sigma(path: Path, stage: str, sigma: float) -> None:
    """Refuse weights that say that they were trained for another σ; published ones say nothing."""
    said = _training(path).get("sigma")
    if isinstance(said, int | float) and said != sigma:
        raise ValueError(
            f"the {stage} {path} was trained for sigma = {said:g}, the engine is for {sigma:g}; "
            f"pass --sigma {said:g}, or weights that were trained for {sigma:g}"
        )


def _check_tokens(path: Path, recipe: Recipe) -> None:
    """Refuse a mapper that says that it was trained on other tokens; the shapes alone do not show it."""
    said = _training(path)
    output, encoder = said.get("output"), said.get("encoder")
    encoder = encoder if isinstance(encoder, dict) else {}
    # Of an encoder from outside only the channels can be compared with those of the presets.
    if recipe.outside is not None and encoder.get("type") != "onnx":
        return
    if output is not None and output != recipe.output_name:
        raise ValueError(
            f"the mapper {path} was trained on the output {output}, the engine's is {recipe.output_name}; pass "
            f"--output {output}, or a mapper that was trained on {recipe.output_name}"
        )
    own = json.loads(json.dumps(encoder_record(recipe)))
    # Fields that only one of the two versions of fsfast knows cannot be compared.
    known = own.keys() & encoder.keys()
    # Only pooled features depend on it; it is the width where a checkpoint has no projection.
    if recipe.output != "pooled":
        known -= {"embed_dim"}
    if other := [
        f"{key} = {encoder[key]} instead of {own[key]}" for key in sorted(known) if encoder[key] != own[key]
    ]:
        raise ValueError(
            f"the mapper {path} was trained behind another encoder than {recipe.encoder} ({', '.join(other)}); "
            "give the one that was trained behind this encoder"
        )


def _training(path: Path) -> dict[str, Any]:
    """What a file's header says of its training, or else the results of the run that it lies in: of those, σ alone."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("training")
        if header is None:
            results = json.loads((path.parent / RESULTS).read_text(encoding="utf-8"))
            return {"sigma": results["sigma"]}
        said = json.loads(header)
    # Not safetensors, no results, or results of something else: the weights say nothing.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}
