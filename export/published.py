"""Weights from files: published checkpoints, and what `python -m train` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from export.networks import PURIFIERS, encoder_config, feature_dim
from export.options import needs
from export.recipe import Recipe
from fsfast.models import Loaded, UNet, load_encoder, load_mapper, load_purifier

_ADM256_FILE, _ADM256_LICENCE = "256x256_diffusion_uncond.pt", "MIT"
_UNSTATED = "not stated (python -m export --licence says it)"


class Published:
    """The files that a recipe names, each read when its stage is built.

    Args:
        recipe: what to build, with its files.

    Raises:
        ValueError: a file is missing, or its weights were trained for another σ.
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
            self._paths[need.stage] = _in_run(need.path, need.stage)
        for stage in ("purifier", "mapper"):
            if stage in self._paths:
                _check_sigma(self._paths[stage], stage, recipe.sigma)

    def load(self, stage: str) -> nn.Module:
        """Return a stage's module with the weights of its file.

        Raises:
            CheckpointError: the file cannot be used; see fsfast.models.checkpoints.
            ValueError: the weights do not go together with the recipe.
        """
        loaded = getattr(self, f"_{stage}")(self._paths[stage])
        files = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in loaded.files)
        self._sources[stage] = "; ".join([f"{loaded.layout} layout: {files}", *loaded.notes])
        module: nn.Module = loaded.module
        return module

    def provenance(self, stage: str) -> tuple[str, str]:
        """Return layout, file names, hashes and notes of a stage that was loaded, and its licence."""
        licence = self.recipe.licences.get(stage) or self._licences.get(stage, _UNSTATED)
        return self._sources[stage], licence

    def _purifier(self, path: Path) -> Loaded[UNet]:
        # Not a known preset: recognised by its shapes.
        loaded = load_purifier(path, PURIFIERS.get(self.recipe.purifier or ""))
        grid, multiple = self.recipe.grid, loaded.module.config.size_multiple
        if grid.height % multiple or grid.width % multiple:
            raise ValueError(
                f"the purifier {path} wants a grid of multiples of {multiple}, got {grid.height}×{grid.width}; "
                "change [grid] of the recipe"
            )
        if loaded.files[0].name == _ADM256_FILE:
            self._licences["purifier"] = _ADM256_LICENCE
        return loaded

    def _encoder(self, path: Path) -> Any:
        loaded = load_encoder(path, encoder_config(self.recipe))
        if self.recipe.output == "pooled" and not loaded.projection:
            raise ValueError(
                f"{path}: pooled output wants the projection, which this checkpoint lacks; take the whole CLIP "
                "(CLIPModel, or CLIPVisionModelWithProjection), or choose --output penultimate"
            )
        return loaded

    def _mapper(self, path: Path) -> Any:
        loaded = load_mapper(path)
        dim = feature_dim(self.recipe)
        if loaded.module.dim != dim:
            raise ValueError(
                f"wanted a mapper for the {dim} channels of {self.recipe.encoder}'s {self.recipe.output} output, got "
                f"one for {loaded.module.dim} in {path}; give the one that was trained behind this encoder"
            )
        return loaded


def _in_run(path: Path, stage: str) -> Path:
    """The file of a stage where the folder of a training run is given."""
    file = path / f"{stage}.safetensors"
    return file if path.is_dir() and file.is_file() else path


def _check_sigma(path: Path, stage: str, sigma: float) -> None:
    """Refuse weights that say that they were trained for another σ; published ones say nothing."""
    said = _trained_for(path)
    if said is not None and said != sigma:
        raise ValueError(
            f"the {stage} {path} was trained for sigma = {said:g}, the engine is for {sigma:g}; "
            f"pass --sigma {said:g}, or weights that were trained for {sigma:g}"
        )


def _trained_for(path: Path) -> float | None:
    """The σ in a file's header, or in the results of the run that it lies in."""
    try:
        with safe_open(path, framework="numpy") as file:
            training = (file.metadata() or {}).get("training")
        if training is not None:
            said = json.loads(training)["sigma"]
        else:
            said = json.loads((path.parent / "results.json").read_text(encoding="utf-8"))["sigma"]
        return float(said)
    # Not safetensors, no results, or results of something else: the weights say nothing about σ.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
