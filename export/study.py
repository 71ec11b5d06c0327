"""A finished training run, as the export needs it: weights, classes and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import nn

from fsfast.engine.classes import TENSOR

from .networks import empty
from .recipe import Recipe
from .results import results_of
from .run_folder import CLASS_NAMES, Weights, load_run


@dataclass(frozen=True)
class Study:
    """A run.

    Attributes:
        recipe: what to build.
        folder: where it lies.
        weights: of all stages.
        class_names: of the rows of `weights.class_features`.
        results: results.json of the run.
    """

    recipe: Recipe
    folder: str
    weights: Weights
    class_names: tuple[str, ...]
    results: dict[str, Any]

    def load(self, stage: str) -> nn.Module:
        """Return a stage's module with the weights of the run.

        Raises:
            ValueError: they do not fit.
        """
        with torch.device("meta"):
            module = empty(self.recipe, stage)
        try:
            module.load_state_dict(getattr(self.weights, stage), assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the {stage} of {self.folder} does not fit the recipe: {reason}") from None
        return module

    def provenance(self, stage: str) -> tuple[str, str]:
        """Return where the weights come from, and their licence."""
        source = (
            f"trained by `python -m train demo`, seed {self.results['seed']}, run {self.results['run'][:16]}"
        )
        return source, self.recipe.licence_of(stage)

    def class_file(self) -> bytes:
        """Return the safetensors file of the classes' directions."""
        return save({TENSOR: self.weights.class_features.numpy()}, {"format": "fsfast-classes"})


def load_study(recipe: Recipe) -> Study | None:
    """Return the run that a recipe names, or None where its weights come from elsewhere.

    Raises:
        ValueError: the run is missing, unfinished, was made for another σ, or has other networks.
    """
    results = results_of(recipe)
    if results is None or recipe.run is None:
        return None
    study = Study(recipe, recipe.run, load_run(Path(recipe.run)), CLASS_NAMES, results)
    for stage in recipe.stages:
        # Costs nothing: the weights are not copied.
        study.load(stage)
    return study
