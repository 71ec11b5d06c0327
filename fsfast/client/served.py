"""What a server says of a model, before it serves anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsfast.images.grid import Grid


@dataclass(frozen=True)
class ServedModel:
    """A model of a server.

    Attributes:
        name: under which it is served.
        engine, engine_digest, function_id: which engine, and which fixed function of it.
        sigma: noise level in [0, 1] pixel units.
        n0: samples per image where a call does not say otherwise.
        tokens: L, tokens per image; 1 where features are pooled.
        dim: D, the length of a token.
        grid: the size on which images are smoothed, and how others are fitted to it.
        classes: their names, or None where the engine has none.
        random_weights: whether its networks were never trained.
    """

    name: str
    engine: str
    engine_digest: str
    function_id: str
    sigma: float
    n0: int
    tokens: int
    dim: int
    grid: Grid
    classes: tuple[str, ...] | None
    random_weights: bool


def served_model(metadata: Mapping[str, Any]) -> ServedModel:
    """Read the protocol's metadata of a model.

    Raises:
        ValueError, KeyError, TypeError, IndexError: it is none of a server of ours.
    """
    said = metadata["parameters"]
    (_, *tokens, dim) = next(
        output["shape"] for output in metadata["outputs"] if output["name"] == "features"
    )
    return ServedModel(
        name=metadata["name"],
        engine=said["engine"],
        engine_digest=said["engine_digest"],
        function_id=said["function_id"],
        sigma=said["sigma"],
        n0=said["n0"],
        tokens=tokens[0] if tokens else 1,
        dim=dim,
        grid=Grid(**said["grid"]),
        classes=None if said["classes"] is None else tuple(said["classes"]),
        random_weights=said["random_weights"],
    )
