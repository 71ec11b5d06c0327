"""The classes of an engine: one row each, which a smoothed feature is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from safetensors.numpy import load

from fsfast.engine.engine import Engine
from fsfast.errors import EngineError

TENSOR = "class_features"
ClassKind = Literal["directions", "linear"]


@dataclass(frozen=True, eq=False)
class ClassHead:
    """A row for each class: directions, as the text features of a zero-shot head, or a linear classifier.

    Attributes:
        names: of the K classes.
        features: [K, D] float32.
        kind: "directions", whose lengths do not matter, or "linear", rows of a classifier without a bias.
    """

    names: tuple[str, ...]
    features: np.ndarray
    kind: ClassKind = "directions"

    @cached_property
    def rows(self) -> np.ndarray:
        """[K, D] float64, as features are compared with them: directions have norm 1."""
        wide = self.features.astype(np.float64)
        return _unit(wide) if self.kind == "directions" else wide

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the mean over tokens of the inner products of unit tokens and every class's row.

        Args:
            features: [B, L, D] or [B, D], smoothed or raw, or what `encode` returned.

        Returns:
            [B, K] float64, for directions cosines in [−1, 1]; with the unit feature f of a sample and the vector w_k
            that repeats the row of class k over the tokens, divided by √L, it is ⟨f, w_k⟩. A smoothed feature of L > 1
            tokens loses their lengths here; a certificate's `predict` speaks of the class by ⟨f̂, w_k⟩, which keeps
            them.

        Raises:
            ValueError: features of another dimension.
        """
        values = np.asarray(getattr(features, "features", features), np.float64)
        dim = self.features.shape[1]
        if values.ndim not in (2, 3) or values.shape[-1] != dim:
            raise ValueError(f"wanted features as [B, L, {dim}] or [B, {dim}], got {list(values.shape)}")
        tokens = values[:, None] if values.ndim == 2 else values
        return np.asarray((_unit(tokens) @ self.rows.T).mean(1))

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
    kind: ClassKind = record.get("kind", "directions")
    try:
        features = load(engine.read(record["file"]))[TENSOR]
        if features.shape != (len(names), dim) or features.dtype not in (np.float32, np.float16):
            raise ValueError(
                f"wanted float32 or float16 [{len(names)}, {dim}], got {features.dtype} {list(features.shape)}"
            )
        features = features.astype(np.float32)
        if not np.isfinite(features).all():
            raise ValueError("wanted finite rows")
        if kind == "directions" and not features.any(1).all():
            raise ValueError("wanted directions that are not zero")
    except EngineError:
        raise
    # The reader of safetensors has an exception of its own.
    except Exception as error:
        raise EngineError(f"{engine.path}: {record['file']}: {error}") from None
    return ClassHead(names, features, kind)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300)
