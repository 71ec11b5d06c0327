"""Run one attack on a batch of images: starts, objectives, and which of what was found counts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fsfast.errors import FsfastError
from study.attacks import distortions, typographic
from study.attacks.objectives import Aim, score_of
from study.attacks.spec import AttackSpec, Start
from study.targets import Target
from study.victim import Victim
from train.ascent import AutoStep, Ball, L2Ball, LinfBall, Rule, Steady, ascend
from train.loop import step_generator

# Where `alpha` is not said, a step is this share of the radius.
_SHARE = 1 / 8
# Steps of the plain attack that another one starts from.
_PLAIN_STEPS = 50


def run(aim: Aim, radii: Tensor | None = None, show: str | None = None) -> Tensor:
    """Return attacked images of whole levels.

    Args:
        aim: the attack.
        radii: [B] certified ℓ2 radii, [0, 1] units, that an ℓ2 attack's eps multiplies.
        show: label of a progress bar.

    Raises:
        FsfastError: the engine or the target is not what this attack needs; the message says what is.
    """
    check(aim.spec, aim.victim, aim.target)
    ball, length = _ball(aim, radii)
    found = [_from(aim, ball, length, start, number, show) for number, start in enumerate(aim.spec.starts)]
    return best(aim, [ball.rounded(images) for images in found])


def check(spec: AttackSpec, victim: Victim, target: Target) -> None:
    """Refuse what an attack cannot work with; raises FsfastError."""
    if "distance" in spec.objectives and not victim.has_purifier:
        raise FsfastError(f"{spec.name} attacks a purifier, and this engine has none")
    if spec.local and target.features is None:
        raise FsfastError(f"{spec.name} matches the tokens of an image: give one as --target, not a class")
    if set(spec.objectives) & {"score", "cross-entropy", "margin"} and target.classes is None:
        raise FsfastError(f"{spec.name} is after a class, and this engine has none")


def best(aim: Aim, found: list[Tensor]) -> Tensor:
    """Return, for each image, the best of what several runs found, by noises that none of them has seen."""
    if len(found) == 1:
        return found[0]
    spec = aim.spec
    judging = replace(spec, seed=spec.seed + 1_000_003, noises=2 * spec.noises) if spec.stochastic else spec
    score = score_of(replace(aim, spec=judging), spec.objectives[-1])
    with torch.no_grad():
        values = torch.stack([score(images, 0) for images in found])
    chosen = values.argmax(0)
    return torch.stack(found)[chosen, torch.arange(len(chosen), device=chosen.device)]


def changed(name: str, levels: Tensor, words: list[str]) -> Tensor:
    """Return images under a change that needs no network: "typographic" with a word each, or a distortion."""
    return typographic.pasted(levels, words) if name == "typographic" else distortions.distorted(levels, name)


def _ball(aim: Aim, radii: Tensor | None) -> tuple[Ball, Tensor]:
    """Return where the attack stays, and its steps in levels, [B, 1, 1, 1]."""
    spec = aim.spec
    if spec.norm == "linf":
        radius = 255.0 * spec.eps
        step = torch.full((len(aim.levels),), radius * _SHARE if spec.alpha is None else 255.0 * spec.alpha)
        return LinfBall(aim.levels, radius), step.to(aim.levels)[:, None, None, None]
    if radii is None:
        raise FsfastError(f"{spec.name} needs certified radii")
    scaled = 255.0 * spec.eps * radii.to(aim.levels)
    return L2Ball(aim.levels, scaled), (_SHARE * scaled)[:, None, None, None]


def _from(aim: Aim, ball: Ball, length: Tensor, start: Start, number: int, show: str | None) -> Tensor:
    spec = aim.spec
    if start == "random":
        images = ball.random(step_generator(spec.seed, "start", number, aim.levels.device))
    elif start == "plain":
        plain = replace(
            spec,
            graph="plain",
            starts=("image",),
            steps=min(_PLAIN_STEPS, spec.steps),
            rule="sign",
            momentum=0.0,
        )
        images = _from(replace(aim, spec=plain), ball, length, "image", number, show and f"{show}, plain")
    else:
        images = aim.levels.clone()
    own = replace(aim, spec=replace(spec, seed=spec.seed + number * 10_007))
    for objective in spec.objectives:
        score = score_of(own, objective)
        images = ascend(score, ball, images, _rule(spec, length), spec.steps, show)
    return images


def _rule(spec: AttackSpec, length: Tensor) -> Rule:
    if spec.rule == "apgd":
        # Of one ball; ℓ2 radii differ from image to image.
        return AutoStep(255.0 * spec.eps, spec.steps)
    return Steady(lambda _: length, spec.momentum if spec.rule == "momentum" else 0.0)
