"""How an attack is made: everything that a table has to say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Norm = Literal["linf", "l2"]
Features = Literal["global", "tokens"]
Graph = Literal["plain", "purified", "smoothed", "known-seed"]
Objective = Literal["cosine", "score", "cross-entropy", "margin", "distance"]
Rule = Literal["sign", "momentum", "apgd"]
Start = Literal["image", "random", "plain"]


@dataclass(frozen=True)
class AttackSpec:
    """An attack that follows gradients.

    Attributes:
        name: in the catalogue.
        eps: radius, [0, 1] pixel units; for ℓ2 a multiple of the certified radius.
        norm: of the ball.
        alpha: step, [0, 1] pixel units; None: an eighth of eps.
        steps: evaluations of the gradient, per objective.
        crops: smallest and largest share of the area of the random crops of source and target, or None.
        features: what is compared with the target's: "global", the direction of the mean over tokens; "tokens", all
            of them, which is what certificates speak of.
        local: features of clusters of tokens count, too (FOA-Attack).
        objectives: one after the other, each starting from what the one before found. "cosine": to the target image's
            features, or where there is none the target class's score; "score", "cross-entropy", "margin": of the
            target class; "distance": between what the purifier makes of the attacked and of the clean image.
        away: from the image's own features instead of to a target.
        graph: what is differentiated: "plain", the encoder; "purified", all networks without noise; "smoothed", all
            networks, averaged over fresh noises (EOT, Athalye et al. 2018); "known-seed", over the very noises that
            are served.
        noises: m, fresh noises per step, or n0 of the known seed.
        rule: "sign" steps, "momentum" (of gradients as they are), or "apgd".
        momentum: what remains of earlier gradients.
        starts: one run each, of which the best counts, by noises that the attack has not seen: "image", "random", or
            "plain", what the same attack on the encoder alone found.
        seed: of starts, crops and noises.
    """

    name: str
    eps: float = 16 / 255
    norm: Norm = "linf"
    alpha: float | None = 1 / 255
    steps: int = 300
    crops: tuple[float, float] | None = None
    features: Features = "global"
    local: bool = False
    objectives: tuple[Objective, ...] = ("cosine",)
    away: bool = False
    graph: Graph = "plain"
    noises: int = 1
    rule: Rule = "sign"
    momentum: float = 0.0
    starts: tuple[Start, ...] = ("image",)
    seed: int = 0

    def at(self, eps: float, seed: int = 0) -> AttackSpec:
        """Return the attack with another radius and seed."""
        return replace(self, eps=eps, seed=seed)

    @property
    def stochastic(self) -> bool:
        """Whether what it follows is noise, so that the last image is not known to be the best."""
        return self.graph == "smoothed"


def parse_eps(text: str) -> float:
    """Read a radius: "16/255", "0.06"; raises ValueError."""
    try:
        eps = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"wanted a radius as 16/255 or 0.06, got {text!r}") from None
    if not 0 < eps <= 1:
        raise ValueError(
            f"wanted a radius in (0, 1], in units of pixels in [0, 1], got {text!r}; 16/255 is usual"
        )
    return eps


def show_eps(eps: float) -> str:
    """Return a radius as 255ths where it is whole ones."""
    levels = 255 * eps
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{eps:.3g}"
