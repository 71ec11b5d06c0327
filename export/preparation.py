"""A recipe against the preparation of pictures that a checkpoint itself asks for."""

from __future__ import annotations

from pathlib import Path

from fsfast.models.checkpoints import Preparation

from .recipe import Recipe

# Some files round the constants.
_CLOSE = 1e-3
# Crops differ in what they do with half pixels alone.
_ALIKE = {"crop-floor": "crop"}


def check_preparation(recipe: Recipe, path: Path, said: Preparation | None) -> None:
    """Refuse weights whose own files ask for pictures that are prepared otherwise than the recipe does it.

    A recipe that pads is meant for a model around the tower, which prepares pictures in its own way: its fit counts.

    Args:
        recipe: what to build.
        path: of the weights.
        said: by the files beside them, None where there are none.

    Raises:
        ValueError: mean, standard deviation, fit or filter differ.
    """
    if said is None:
        return
    own = {"mean": recipe.mean, "std": recipe.std, "filter": recipe.grid.filter}
    if recipe.grid.fit != "pad":
        own["fit"] = _ALIKE.get(recipe.grid.fit, recipe.grid.fit)
    other = [
        f"{name} = {wanted} instead of {value}"
        for name, value in own.items()
        if (wanted := getattr(said, name)) is not None and not _same(wanted, value)
    ]
    if other:
        raise ValueError(
            f"{path}: {said.by} asks for {', '.join(other)} of recipe {recipe.name}; choose the recipe of these "
            "weights, write these values into one of your own ([normalise], [grid]), or give the weights file alone"
        )


def _same(wanted: object, value: object) -> bool:
    if isinstance(wanted, tuple) and isinstance(value, tuple):
        return all(abs(a - b) <= _CLOSE for a, b in zip(wanted, value, strict=True))
    return wanted == value
