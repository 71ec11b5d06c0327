"""The classes of an engine: one direction each, which a smoothed feature is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load

from fsfast.engine.engine import Engine
from fsfast.errors import EngineError

TENSOR = "class_features"


@dataclass(frozen=True, eq=False)
class ClassHead:
    """Directions of classes, as the text features of a zero-shot head.

    Attributes:
        names: of the K classes.
        features: [K, D] float32; lengths do not matter.
    """

    names: tuple[str, ...]
    features: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the mean over tokens of the cosines with every class.

        Args:
            features: [B, L, D] or [B, D], smoothed or raw, or what `encode` returned.

        Returns:
            [B, K] float64 in [−1, 1]; with the unit feature f of a sample and the unit vector w_k that repeats
            class k over the tokens it is ⟨f, w_k⟩. A smoothed feature of L > 1 tokens loses their lengths here; a
            certificate's `predict` speaks of the class by ⟨f̂, w_k⟩, which keeps them.

        Raises:
            ValueError: features of another dimension.
        """
        values = np.asarray(getattr(features, "features", features), np.float64)
        dim = self.features.shape[1]
        if values.ndim not in (2, 3) or values.shape[-1] != dim:
            raise ValueError(f"wanted features as [B, L, {dim}] or [B, {dim}], got {list(values.shape)}")
        tokens = values[:, None] if values.ndim == 2 else values
        return np.asarray((_unit(tokens) @ _unit(self.features.astype(np.float64)).T).mean(1))

    def predict(self, features: np.ndarray) -> list[str]:
        """Return the name of the class with the largest score, per image; arguments as `scores`."""
        return [self.names[k] for k in self.scores(features).argmax(1)]


def load_classes(engine: Engine) -> ClassHead | None:
    """Return the classes of an engine, or None where it has none.

    Raises:
        EngineError: the file does not hold what the manifest says.
    """
    record = engine.manifest.record.get("classes")
    if record is None:
        return None
    names, dim = tuple(record["names"]), engine.manifest.dim
    try:
        features = load(engine.read(record["file"]))[TENSOR]
        if features.shape != (len(names), dim) or features.dtype != np.float32:
            raise ValueError(
                f"wanted float32 [{len(names)}, {dim}], got {features.dtype} {list(features.shape)}"
            )
        if not np.isfinite(features).all() or not features.any(1).all():
            raise ValueError("wanted finite directions that are not zero")
    except EngineError:
        raise
    # The reader of safetensors has an exception of its own.
    except Exception as error:
        raise EngineError(f"{engine.path}: {record['file']}: {error}") from None
    return ClassHead(names, features)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300)
