"""Targeted attacks in feature space: towards the class that no test image belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.ascent import LinfBall, Score, Steady, ascend
from train.defence import Defence, class_scores
from train.glyphs import TARGET
from train.loop import step_generator
from train.losses import add_noise


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on grid levels, in the ℓ∞ ball, from a random start.

    Attributes:
        radius: 16 levels are 16/255.
        step: levels per iteration.
        steps: iterations.
        seed: of the random start, and of the noises that an adaptive attack draws.
    """

    radius: float = 16.0
    step: float = 2.0
    steps: int = 50
    seed: int = 0

    def run(self, levels: Tensor, score: Score, show: str) -> Tensor:
        """Return attacked images on the grid.

        Args:
            levels: [B, 3, S, S] grid levels.
            score: what to increase.
            show: label of the progress bar.
        """
        ball = LinfBall(levels, self.radius)
        start = ball.random(step_generator(self.seed, "start", 0, levels.device))
        return ball.rounded(ascend(score, ball, start, Steady(self.step), self.steps, show))


def plain_score(defence: Defence, class_features: Tensor) -> Score:
    """Return the target class's score by the plain encoder, without noise, purifier and mapper."""
    plain = Defence("plain", 0.0, defence.encoder)
    return lambda levels, _: class_scores(plain.unit(levels), class_features)[:, TARGET]


def adaptive_score(defence: Defence, class_features: Tensor, noises: int, seed: int) -> Score:
    """Return the target class's score by the whole defence: the mean over fresh noises, with all gradients.

    Expectation over transformation (Athalye et al. 2018): the noise is a constant of each evaluation, so
    the gradient passes through purifier, encoder and mapper exactly.

    Args:
        defence: what is attacked.
        class_features: [K, D].
        noises: per iteration.
        seed: of the noises; independent of every other stream.
    """

    def score(levels: Tensor, iteration: int) -> Tensor:
        total = levels.new_zeros(len(levels))
        for sample in range(noises):
            generator = step_generator(seed, "adaptive", iteration * noises + sample, levels.device)
            z = torch.randn(levels.shape, generator=generator, device=levels.device)
            noisy = add_noise(levels, z, defence.sigma)
            total = total + class_scores(defence.unit(noisy), class_features)[:, TARGET]
        return total / noises

    return score


def in_parts(attack: Attack, levels: Tensor, score: Score, show: str, rows: int = 50) -> Tensor:
    """Run an attack on a few images at a time, to bound memory."""
    parts = levels.split(rows)
    return torch.cat(
        [attack.run(part, score, f"{show} {i + 1}/{len(parts)}") for i, part in enumerate(parts)]
    )
