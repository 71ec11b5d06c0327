"""A tower that stands in the place of a host's own, and remembers it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fsfast.integrations.tower import SmoothedTower


class StandingTower(SmoothedTower):
    """A tower that remembers the one in whose place it stands."""

    # In a tuple: a module among the attributes would be moved, saved and counted with this one.
    _plain: tuple[Any, ...] = (None,)

    def standing_for(self, plain: Any) -> Any:
        """Remember the host's own tower, and take over its floating type, its place and its mode."""
        self._plain = (plain,)
        floats = (p for p in plain.parameters() if p.is_floating_point())
        first = next(floats, None)
        if first is not None:
            self.to(device=None if first.is_meta else first.device, dtype=first.dtype)
        return self.train(plain.training)

    @property
    def plain(self) -> Any:
        """The tower in whose place this one stands, or None."""
        return self._plain[0]

    def plain_features(self, pixel_values: Tensor) -> Tensor:
        """Return what the host reads from its own tower, [B, L, D], for normalised pixels [B, 3, H, W]."""
        raise NotImplementedError
