"""Projected gradient ascent on images: the balls that attacks stay in, and the rules by which they step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import torch
from torch import Tensor
from tqdm import trange

# (images [B, 3, H, W], iteration) → [B], what to increase; images do not affect one another.
Score = Callable[[Tensor, int], Tensor]

# APGD's: the first two of its checkpoints' distances, the least one, and how much they shrink (shares of all steps).
_FIRST, _LEAST, _SHRINK = 0.22, 0.06, 0.03
# Of the steps since a checkpoint as many have to climb, or the step is halved.
_CLIMBING = 0.75
# APGD's momentum: how much of the new step is taken, the rest is the step before.
_NEW = 0.75


class Ball(Protocol):
    """The images around others that an attack may reach; levels of 0 to 255."""

    def random(self, generator: torch.Generator) -> Tensor:
        """Return a start of the ball, [B, 3, H, W]."""
        ...

    def along(self, gradient: Tensor) -> Tensor:
        """Return the steepest directions of length 1 in the ball's norm, [B, 3, H, W]."""
        ...

    def project(self, images: Tensor) -> Tensor:
        """Return images of the ball and of the pixels' range."""
        ...

    def rounded(self, images: Tensor) -> Tensor:
        """Return images of whole levels in the ball, near those that are given."""
        ...


class LinfBall:
    """All channels of all pixels within a distance.

    Args:
        levels: [B, 3, H, W], the centres.
        radius: levels; 16 are 16/255.
    """

    def __init__(self, levels: Tensor, radius: float) -> None:
        self.low, self.high = (levels - radius).clamp_min(0.0), (levels + radius).clamp_max(255.0)

    def random(self, generator: torch.Generator) -> Tensor:
        """See `Ball`: uniform."""
        start = torch.rand(self.low.shape, generator=generator, device=self.low.device)
        return self.low + start * (self.high - self.low)

    def along(self, gradient: Tensor) -> Tensor:
        """See `Ball`: the signs."""
        return gradient.sign()

    def project(self, images: Tensor) -> Tensor:
        """See `Ball`."""
        return torch.minimum(torch.maximum(images, self.low), self.high)

    def rounded(self, images: Tensor) -> Tensor:
        """See `Ball`: the nearest levels inside."""
        return torch.minimum(torch.maximum(images.round(), self.low.ceil()), self.high.floor())


class L2Ball:
    """All images within a Euclidean distance.

    Args:
        levels: [B, 3, H, W], the centres, whole numbers.
        radii: [B] or one for all, levels; 255·ε.
    """

    def __init__(self, levels: Tensor, radii: Tensor | float) -> None:
        self.levels = levels
        self.radii = torch.as_tensor(radii, dtype=levels.dtype, device=levels.device).expand(len(levels))

    def random(self, generator: torch.Generator) -> Tensor:
        """See `Ball`: half-way to the edge in a random direction."""
        direction = torch.randn(self.levels.shape, generator=generator, device=self.levels.device)
        return self.project(self.levels + 0.5 * _columns(self.radii) * self.along(direction))

    def along(self, gradient: Tensor) -> Tensor:
        """See `Ball`: unit vectors, zero where the gradient is."""
        return gradient / _columns(_norms(gradient)).clamp_min(1e-30)

    def project(self, images: Tensor) -> Tensor:
        """See `Ball`; clamping moves towards the centre, so it comes last."""
        change = images - self.levels
        shrink = (self.radii / _norms(change).clamp_min(1e-30)).clamp_max(1.0)
        return (self.levels + _columns(shrink) * change).clamp(0.0, 255.0)

    def rounded(self, images: Tensor) -> Tensor:
        """See `Ball`: of the rounded changes as many as the radius allows, the largest first."""
        change = (images - self.levels).flatten(1)
        whole = change.round()
        order = change.abs().argsort(dim=1, descending=True, stable=True)
        spent = whole.gather(1, order).square().cumsum(1)
        kept = torch.zeros_like(whole, dtype=torch.bool).scatter(1, order, spent <= self.radii[:, None] ** 2)
        return self.levels + (whole * kept).reshape(self.levels.shape)


class Rule(Protocol):
    """How an attack moves."""

    def step(self, ball: Ball, images: Tensor, values: Tensor, gradient: Tensor, iteration: int) -> Tensor:
        """Return the next images, given the score and its gradient at these; arguments of `ascend`'s shapes."""
        ...

    def best(self, images: Tensor) -> Tensor:
        """Return what the attack found, given the last images."""
        ...


@dataclass
class Steady:
    """Steps along the gradient, or along the sum of all so far.

    Attributes:
        length: levels, in the ball's norm; or a function of the iteration, with what multiplies [B, 3, H, W].
        momentum: what remains of the earlier gradients; gradients are added as they are.
    """

    length: float | Callable[[int], Tensor]
    momentum: float = 0.0

    def __post_init__(self) -> None:
        self._velocity: Tensor | None = None

    def step(self, ball: Ball, images: Tensor, values: Tensor, gradient: Tensor, iteration: int) -> Tensor:
        """See `Rule`."""
        if self.momentum:
            earlier = 0.0 if self._velocity is None else self.momentum * self._velocity
            gradient = self._velocity = gradient + earlier
        length = self.length(iteration) if callable(self.length) else self.length
        return ball.project(images + length * ball.along(gradient))

    def best(self, images: Tensor) -> Tensor:
        """See `Rule`: the last ones."""
        return images


class AutoStep:
    """APGD (Croce & Hein 2020, arXiv 2003.01690): momentum, and a step that is halved where the score stops climbing.

    It keeps the best of the images that were scored. A score that draws fresh noise is compared as it comes.

    Args:
        radius: of the ball, levels; the first step is twice as long.
        steps: of the whole attack.
    """

    def __init__(self, radius: float, steps: int) -> None:
        self.radius, self.checkpoints = radius, checkpoints(steps)
        self._state: _Climb | None = None

    def step(self, ball: Ball, images: Tensor, values: Tensor, gradient: Tensor, iteration: int) -> Tensor:
        """See `Rule`."""
        climb = self._state
        if climb is None:
            climb = self._state = _Climb(images, values, gradient, 2.0 * self.radius)
        else:
            climb.judge(images, values, gradient)
        if iteration in self.checkpoints:
            images, gradient = climb.halve(images, gradient)
        ahead = ball.project(images + _columns(climb.length) * ball.along(gradient))
        if iteration == 0:
            return climb.moved(images, ahead)
        heavy = images + _NEW * (ahead - images) + (1.0 - _NEW) * (images - climb.before)
        return climb.moved(images, ball.project(heavy))

    def best(self, images: Tensor) -> Tensor:
        """See `Rule`: those of the highest score."""
        return images if self._state is None else self._state.images


class _Climb:
    """What APGD remembers of every image."""

    def __init__(self, images: Tensor, values: Tensor, gradient: Tensor, length: float) -> None:
        self.images, self.values, self.gradient = images, values, gradient
        self.before, self.last = images, values
        self.length = torch.full_like(values, length)
        self.climbed = torch.zeros_like(values)
        self.since = 0
        self.halved = torch.ones_like(values, dtype=torch.bool)
        self.values_then = values

    def judge(self, images: Tensor, values: Tensor, gradient: Tensor) -> None:
        self.climbed += values > self.last
        self.since += 1
        better = values > self.values
        self.images = torch.where(_columns(better), images, self.images)
        self.gradient = torch.where(_columns(better), gradient, self.gradient)
        self.values, self.last = torch.maximum(values, self.values), values

    def halve(self, images: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the steps of images that do not climb; they go on from their best."""
        stuck = ~self.halved & (self.values <= self.values_then)
        halve = (self.climbed < _CLIMBING * self.since) | stuck
        self.length = torch.where(halve, 0.5 * self.length, self.length)
        self.halved, self.values_then = halve, self.values
        self.climbed, self.since = torch.zeros_like(self.climbed), 0
        back = _columns(halve)
        self.before = torch.where(back, self.images, self.before)
        self.last = torch.where(halve, self.values, self.last)
        return torch.where(back, self.images, images), torch.where(back, self.gradient, gradient)

    def moved(self, images: Tensor, ahead: Tensor) -> Tensor:
        self.before = images
        return ahead


def checkpoints(steps: int) -> frozenset[int]:
    """Return the iterations after which APGD looks whether its step is too long."""
    places, last, share = set(), 0.0, _FIRST
    while share <= 1.0:
        # Sums of hundredths are off in the last bit.
        places.add(ceil(round(share * steps, 6)))
        last, share = share, share + max(share - last - _SHRINK, _LEAST)
    return frozenset(places)


def ascend(
    score: Score, ball: Ball, start: Tensor, rule: Rule, steps: int, show: str | None = None
) -> Tensor:
    """Return images of a ball with a high score.

    Args:
        score: what to increase.
        ball: where.
        start: [B, 3, H, W] levels inside.
        rule: how; used once.
        steps: evaluations of the gradient.
        show: label of the progress bar; None: no bar.
    """
    images = start
    for iteration in trange(steps, desc=show, mininterval=5.0, leave=None, disable=show is None):
        images = images.requires_grad_(True)
        values = score(images, iteration)
        (gradient,) = torch.autograd.grad(values.sum(), images)
        images = rule.step(ball, images.detach(), values.detach(), gradient, iteration)
    return rule.best(images)


def _norms(images: Tensor) -> Tensor:
    """[B, 3, H, W] → [B], Euclidean."""
    return images.flatten(1).norm(dim=1)


def _columns(values: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1]."""
    return values[:, None, None, None]
