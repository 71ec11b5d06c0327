"""What an attack increases: from its specification, the victim and the target to a score of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from study.attacks import foa_attack, known_seed
from study.attacks.crops import Crops
from study.attacks.spec import AttackSpec, Objective
from study.targets import Target
from study.victim import Victim
from train.ascent import Score
from train.loop import step_generator

# Logits are so many times the scores of a unit feature: where classes are directions about what CLIP's are.
TEMPERATURE = 50.0

# (images, iteration) → f or f_e of them, [B, L, D].
Units = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Aim:
    """One attack on one batch.

    Attributes:
        spec: how.
        victim: whom.
        levels: [B, 3, H, W], the clean images.
        target: what for.
    """

    spec: AttackSpec
    victim: Victim
    levels: Tensor
    target: Target


def score_of(aim: Aim, objective: Objective) -> Score:
    """Return what an attack increases by one of its objectives."""
    if objective == "distance":
        return _distance(aim)
    if aim.spec.away:
        return _away(aim)
    if objective == "cosine" and aim.target.features is not None:
        return _towards_image(aim)
    return _towards_class(aim, objective)


def units_of(aim: Aim) -> Units:
    """Return what the attack differentiates."""
    spec, victim = aim.spec, aim.victim
    if spec.graph == "plain":
        return lambda images, _: victim.clean(images)
    if spec.graph == "purified":
        return lambda images, _: victim.through(images)
    if spec.graph == "smoothed":
        return lambda images, i: victim.mean(images, victim.fresh(spec.noises, spec.seed, "eot", i))
    height, width = aim.levels.shape[2:]
    fixed = victim.served_noise([known_seed.SEED] * len(aim.levels), spec.noises, (height, width))
    return lambda images, _: victim.mean(images, fixed)


def cosines(a: Tensor, b: Tensor, features: str) -> Tensor:
    """Return the cosines of features [B, L, D], of all tokens or of their means: [B]."""
    if features == "global":
        a, b = a.sum(1, keepdim=True), b.sum(1, keepdim=True)
    return F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)


def class_objective(scores: Tensor, classes: Tensor, objective: Objective) -> Tensor:
    """Return the score, the logarithm of the softmax, or the margin of classes: [B, K] and [B] → [B]."""
    own = scores.gather(1, classes[:, None])[:, 0]
    if objective == "cross-entropy":
        return F.log_softmax(TEMPERATURE * scores, 1).gather(1, classes[:, None])[:, 0]
    if objective == "margin":
        others = scores.scatter(1, classes[:, None], -torch.inf)
        return own - others.max(1).values
    return own


def _view(aim: Aim) -> Callable[[Tensor, int, str], Tensor]:
    if aim.spec.crops is None:
        return lambda images, iteration, purpose: images
    return Crops(aim.spec.crops, aim.spec.seed)


def _towards_image(aim: Aim) -> Score:
    spec, victim, target = aim.spec, aim.victim, aim.target
    units, view, levels, features = units_of(aim), _view(aim), target.levels, target.features
    assert levels is not None
    assert features is not None

    def score(images: Tensor, iteration: int) -> Tensor:
        found = units(view(images, iteration, "source"), iteration)
        with torch.no_grad():
            wanted = victim.clean(view(levels, iteration, "target")) if spec.crops else features
        return cosines(found, wanted, spec.features)

    def with_clusters(images: Tensor, iteration: int) -> Tensor:
        found, tokens = victim.with_tokens(view(images, iteration, "source"))
        with torch.no_grad():
            wanted, others = victim.with_tokens(view(levels, iteration, "target"))
        generator = step_generator(spec.seed, "clusters", iteration, torch.device("cpu"))
        own, theirs = (
            foa_attack.clusters(foa_attack.over_tokens(each), generator) for each in (tokens, others)
        )
        local = foa_attack.transport(own, theirs)
        return cosines(found, wanted, spec.features) + foa_attack.WEIGHT * local

    return with_clusters if spec.local else score


def _towards_class(aim: Aim, objective: Objective) -> Score:
    units, view, classes = units_of(aim), _view(aim), aim.target.classes
    assert classes is not None

    def score(images: Tensor, iteration: int) -> Tensor:
        found = units(view(images, iteration, "source"), iteration)
        return class_objective(aim.victim.scores(found), classes, objective)

    return score


def _away(aim: Aim) -> Score:
    with torch.no_grad():
        own, units = aim.victim.clean(aim.levels), units_of(aim)
    return lambda images, iteration: -cosines(units(images, iteration), own, aim.spec.features)


def _distance(aim: Aim) -> Score:
    spec, victim, clean = aim.spec, aim.victim, aim.levels

    def score(images: Tensor, iteration: int) -> Tensor:
        noise = victim.fresh(spec.noises, spec.seed, "eot", iteration)
        total = torch.zeros((), device=images.device)
        for sample in range(spec.noises):
            with torch.no_grad():
                before = victim.purified(noise.add(clean, sample))
            change = victim.purified(noise.add(images, sample)) - before
            total = total + change.flatten(1).norm(dim=1)
        return total / spec.noises

    return score
