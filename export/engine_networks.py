"""The networks of an engine as the torch modules that another engine is built of."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fsfast.engine.engine import load_engine
from fsfast.models.folded import load_folded

from .recipe import Recipe


class EngineNetworks:
    """Where networks of an engine come from: itself.

    Args:
        path: its directory.
        stage: that is wanted.
        recipe: of the engine that it becomes a part of.

    Raises:
        EngineError: it is damaged.
        ValueError: it has no such network, or one for another σ.
    """

    def __init__(self, path: Path, stage: str, recipe: Recipe) -> None:
        self._engine = load_engine(path)
        manifest = self._engine.manifest
        if stage not in manifest.stages:
            raise ValueError(f"wanted a {stage} in the engine {path}, got {', '.join(manifest.stages)}")
        if stage != "encoder" and manifest.sigma != recipe.sigma:
            raise ValueError(
                f"the {stage} of the engine {path} is for sigma = {manifest.sigma:g}, the new engine is for "
                f"{recipe.sigma:g}; pass --sigma {manifest.sigma:g}, or another {stage}"
            )

    def load(self, stage: str) -> nn.Module:
        """See `export.networks.Source`; what is returned is folded already.

        Raises:
            EngineError: its architecture is unknown, or does not fit its weights.
        """
        return load_folded(self._engine, stages=(stage,))[stage]

    def provenance(self, stage: str) -> tuple[str, str]:
        """See `export.networks.Source`."""
        manifest = self._engine.manifest
        (said,) = (each for each in manifest.record["provenance"] if each["stage"] == stage)
        return f"the engine {manifest.name} (digest {self._engine.digest}): {said['source']}", said["licence"]

    def hashes(self, stage: str) -> list[str]:
        """Return the sha256 of the file that has its weights, hex."""
        manifest = self._engine.manifest
        return [manifest.files[manifest.weights["float32"]].sha256]
