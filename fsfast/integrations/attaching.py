"""Put a tower in the place of a host's own, where it fits, and give that back."""

from __future__ import annotations

from typing import Any

from torch import nn

from fsfast.errors import FsfastError
from fsfast.integrations.agreement import check_agreement
from fsfast.integrations.matching import HostReads, check_match
from fsfast.integrations.standing import StandingTower
from fsfast.integrations.tower import SmoothedTower


def own_tower(model: Any, name: str, host: str) -> Any:
    """Return the tower that stands under a name in a model, its own.

    Raises:
        FsfastError: an engine is attached already.
        TypeError: there is none.
    """
    plain = getattr(model, name, None)
    if isinstance(plain, SmoothedTower):
        raise FsfastError("an engine is attached to this model already; detach(model) first")
    if not isinstance(plain, nn.Module):
        raise TypeError(f"wanted a model of {host} with a {name}, got {type(model).__name__}")
    return plain


def put(tower: StandingTower, model: Any, name: str, reads: HostReads, same_weights: bool) -> None:
    """Put a tower in the place of the model's own.

    Raises:
        EngineError: its engine makes something else than the host reads, or, with same_weights, than the own tower.
    """
    check_match(tower.encoder.manifest, reads)
    if same_weights:
        check_agreement(tower)
    setattr(model, name, tower)


def take_out(model: Any, name: str) -> None:
    """Give a model its own tower back, where the model is now.

    Raises:
        FsfastError: no engine is attached.
    """
    tower = getattr(model, name, None)
    if not isinstance(tower, StandingTower):
        raise FsfastError("no engine is attached to this model; attach(model, encoder) puts one there")
    setattr(model, name, tower.plain.to(tower.device))
