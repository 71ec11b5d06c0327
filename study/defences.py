"""Who answers an attacked image: the encoder alone, the networks without noise, and the engine as it serves."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsfast.encoder import SmoothedEncoder
from study.attacks import known_seed
from study.victim import Victim

NONE, PURIFIER = "none", "purifier"
# n0 of the smoothed ones, under a secret.
SAMPLES = (1, 4, 16)
# The one whose seed everybody knows.
KNOWN = "smoothed, n0 = 4, known seed"
SMOOTHED = {n0: f"smoothed, n0 = {n0}" for n0 in SAMPLES}
NAMES = (NONE, PURIFIER, *SMOOTHED.values(), KNOWN)


@dataclass(frozen=True, eq=False)
class Answer:
    """What one defence says of a batch.

    Attributes:
        unit: [B, L, D] of norm 1.
        classes: [B] numbers of classes, or None.
    """

    unit: Tensor
    classes: Tensor | None


class Defences:
    """All of them for one engine; what is smoothed is the engine itself, not its networks in torch.

    Args:
        engine: name or folder.
        victim: its networks.
        secret: of the server; None: a fresh one, which no attack can know.
        device: of the engine.
    """

    def __init__(
        self, engine: str, victim: Victim, *, secret: bytes | None = None, device: str = "cpu"
    ) -> None:
        self.victim = victim
        self.encoder = SmoothedEncoder(
            engine, secret=secret or secrets.token_bytes(32), device=device, threads=torch.get_num_threads()
        )

    def __enter__(self) -> Defences:
        return self

    def __exit__(self, *_: object) -> None:
        self.encoder.close()

    def answers(self, levels: Tensor, names: tuple[str, ...] = NAMES) -> Mapping[str, Answer]:
        """Return what each defence says of [B, 3, H, W] whole levels."""
        return {name: self._answer(levels, name) for name in names}

    def _answer(self, levels: Tensor, name: str) -> Answer:
        if name in (NONE, PURIFIER):
            with torch.no_grad():
                units = [
                    self.victim.clean(part) if name == NONE else self.victim.through(part)
                    for part in levels.split(self.victim.rows)
                ]
            return self._of(torch.cat(units))
        if name == KNOWN:
            return self.smoothed(levels, 4, [known_seed.SEED] * len(levels))
        return self.smoothed(levels, next(n0 for n0, known in SMOOTHED.items() if known == name))

    def smoothed(self, levels: Tensor, n0: int, seeds: Sequence[int] | None = None) -> Answer:
        """Return what the engine serves, under its secret or with known seeds."""
        found = self.encoder.encode(pixels_of(levels), n0, seeds=seeds, progress=False)
        unit = torch.from_numpy(found.unit.astype(np.float32)).to(levels.device)
        unit = unit[:, None] if unit.ndim == 2 else unit
        return self._of(unit / unit.shape[1] ** 0.5)

    def _of(self, unit: Tensor) -> Answer:
        classes = None if self.victim.classes is None else self.victim.scores(unit).argmax(1)
        return Answer(unit, classes)


def pixels_of(levels: Tensor) -> np.ndarray:
    """Return whole levels as images, [B, H, W, 3] uint8."""
    return np.ascontiguousarray(levels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())


def levels_of_pixels(pixels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return [B, H, W, 3] uint8 as levels, [B, 3, H, W] float32."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).to(device, torch.float32).contiguous()
