"""`--weights`: which are meant where files hold raw weights and their average."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import cast, get_args

from fsfast.commands.parser import Several
from fsfast.models.averages import Weights

from .recipe import STAGES


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the option; it makes a list of what `stage_weights` returns."""
    parser.add_argument(
        "--weights",
        action=Several,
        item=stage_weights,
        default=[],
        metavar="[STAGE=]raw|ema",
        help="of files that hold raw weights and their average over training: of all, or as encoder=ema,purifier=raw",
    )


def stage_weights(text: str) -> tuple[str, Weights]:
    """Read a stage, "" for all, and the weights that are meant of its file; raises ValueError."""
    stage, equals, weights = text.rpartition("=")
    if weights not in get_args(Weights) or (equals and stage not in STAGES):
        raise ValueError(
            f"wanted raw or ema, for a single stage ({', '.join(STAGES)}) as encoder=ema, got {text!r}"
        )
    return stage, cast(Weights, weights)


def by_stage(
    given: Iterable[tuple[str, Weights]], stages: Iterable[str], recipes: Mapping[str, Weights]
) -> dict[str, Weights]:
    """Return the weights that are meant, by stage.

    Args:
        given: as the option makes it; the last word counts.
        stages: whose weights come from files.
        recipes: what a recipe says.

    Raises:
        ValueError: given for a stage whose weights come from no file.
    """
    stages = tuple(stages)
    found = {stage: weights for stage, weights in recipes.items() if stage in stages}
    for stage, weights in given:
        if not stages or (stage and stage not in stages):
            raise ValueError(
                f"--weights is for stages whose weights come from files ({', '.join(stages) or 'none here'}), got "
                f"{stage and stage + '='}{weights}; leave it out"
            )
        found |= {stage: weights} if stage else dict.fromkeys(stages, weights)
    return found
