"""results.json of a training run; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .recipe import Recipe

RESULTS = "results.json"


def read_results(folder: Path) -> dict[str, Any]:
    """Return results.json of a run.

    Raises:
        ValueError: there is none, or it is one of something else.
    """
    try:
        record = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"wanted a finished training run in {folder}, got no {RESULTS}; run `python -m train demo` first "
            "(in a clone), or pass --random-weights for an engine that only has the right structure"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / RESULTS}: {error}") from None
    if not isinstance(record, dict) or "sigma" not in record:
        raise ValueError(f"{folder / RESULTS}: wanted the results of a training run, got something else")
    return record


def results_of(recipe: Recipe) -> dict[str, Any] | None:
    """Return the results of the run that a recipe takes its weights from; None where they come from elsewhere.

    Raises:
        ValueError: the run is missing, unfinished, or was made for another σ.
    """
    if recipe.run is None:
        return None
    results = read_results(Path(recipe.run))
    if results["sigma"] != recipe.sigma:
        raise ValueError(
            f"{recipe.run} was trained for σ = {results['sigma']}, the recipe says {recipe.sigma}"
        )
    return results
