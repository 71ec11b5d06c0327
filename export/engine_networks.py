"""The networks of an engine as the torch modules that another engine is built of."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fsfast.engine.engine import load_engine
from fsfast.models.folded import load_folded


class EngineNetworks:
    """Where networks of an engine come from: itself.

    Args:
        path: its directory.

    Raises:
        EngineError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._engine = load_engine(path)

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
