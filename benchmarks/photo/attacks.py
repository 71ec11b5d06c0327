"""Targeted attacks, ℓ∞ 16/255, towards the features of another photograph: on the encoder alone, and on the whole.

Certificates say nothing about them: their ℓ2 norm, up to 24 at 224×224, is far beyond every certified radius.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring.harness import machine
from benchmarks.measuring.rows import Rows
from benchmarks.photo.pictures import Networks, Photographs
from train.attack import Attack
from train.images import levels_of
from train.photos.assembling import Picture

RADIUS, STEP, STEPS = 16.0, 1.0, 40
# Of the attack that differentiates through the whole: fresh noises per step, and starts, of which the best counts.
NOISES, RESTARTS = 8, 2
N0 = 4
COLUMNS = (
    *("sigma", "attack", "networks", "image", "target", "clean_class", "target_class", "class"),
    *("cosine_to_clean", "cosine_to_target", "device"),
)


@dataclass(frozen=True)
class _Pair:
    """A photograph and the one that its attack is after."""

    picture: Picture
    target: Picture
    levels: Tensor
    clean: Tensor
    towards: Tensor


def plain(photographs: Photographs, networks: Sequence[Networks], path: Path, images: int) -> None:
    """Attack the encoder without noise; write what it answers, and what every defence does.

    Args:
        photographs: held out.
        networks: of each σ; they share the encoder.
        path: of the table.
        images: photographs, the first ones.
    """
    rows, first = Rows(path, COLUMNS, ("sigma", "attack", "networks", "image")), networks[0]
    for pair in tqdm(_pairs(photographs, first, images), desc="attacks", total=images, mininterval=5.0):
        wanted = [(each, stages) for each in networks for stages in each.choices]
        if all((n.sigma, "plain", "+".join(s), pair.picture.name) in rows for n, s in wanted):
            continue
        score = _towards(pair, lambda levels, _: first.clean(levels))
        attacked = Attack(RADIUS, STEP, STEPS).run(pair.levels, score, "plain")
        with torch.no_grad():
            _append(rows, first, pair, "plain", 0.0, "encoder", first.clean(attacked))
        for each, stages in wanted:
            served = each.served(attacked, stages, N0, f"attacked {pair.picture.sha256}")
            _append(rows, each, pair, "plain", each.sigma, "+".join(stages), served)


def adaptive(photographs: Photographs, networks: Sequence[Networks], path: Path, images: int) -> None:
    """Attack all networks at once, with gradients through them averaged over fresh noises; arguments as `plain`."""
    rows = Rows(path, COLUMNS, ("sigma", "attack", "networks", "image"))
    for each in networks:
        stages = each.choices[-1]
        for pair in tqdm(
            _pairs(photographs, each, images),
            desc=f"adaptive, σ = {each.sigma:g}",
            total=images,
            mininterval=5.0,
        ):
            if (each.sigma, "adaptive", "+".join(stages), pair.picture.name) in rows:
                continue
            starts = [_through(each, stages, pair, seed) for seed in range(RESTARTS)]
            # Judged by noises that the attack has not seen, and the answer by others again.
            judged = [
                each.served(found, stages, 2 * NOISES, f"judging {pair.picture.sha256}") for found in starts
            ]
            best = max(range(RESTARTS), key=lambda k: float((judged[k] * pair.towards).sum()))
            served = each.served(starts[best], stages, N0, f"attacked {pair.picture.sha256}")
            _append(rows, each, pair, "adaptive", each.sigma, "+".join(stages), served)


def _through(networks: Networks, stages: tuple[str, ...], pair: _Pair, seed: int) -> Tensor:
    def units(levels: Tensor, iteration: int) -> Tensor:
        repeated = levels.expand(NOISES, -1, -1, -1)
        noisy = networks.noisy(repeated, f"adaptive {seed} {iteration} {pair.picture.sha256}")
        return networks.unit(noisy, stages).mean(0, keepdim=True)

    attack = replace(Attack(RADIUS, STEP, STEPS), seed=seed)
    return attack.run(pair.levels, _towards(pair, units), "adaptive")


def _towards(pair: _Pair, units: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda levels, iteration: (units(levels, iteration) * pair.towards).sum(-1)


def _pairs(photographs: Photographs, networks: Networks, images: int) -> Iterator[_Pair]:
    """Each photograph with the next one that is of another class."""
    chosen = photographs.held_out
    with torch.no_grad():
        levels = [levels_of(photographs.image(each, networks.engine)) for each in chosen]
        units = [networks.clean(each) for each in levels]
    classes = [int(networks.scores(unit).argmax()) for unit in units]
    for i in range(min(images, len(chosen))):
        others = ((i + k) % len(chosen) for k in range(1, len(chosen)))
        j = next(j for j in others if classes[j] != classes[i])
        yield _Pair(chosen[i], chosen[j], levels[i], units[i], units[j])


def _append(
    rows: Rows, networks: Networks, pair: _Pair, attack: str, sigma: float, stages: str, unit: Tensor
) -> None:
    def named(feature: Tensor) -> str:
        return networks.classes.names[int(networks.scores(feature).argmax())]

    if (sigma, attack, stages, pair.picture.name) in rows:
        return
    rows.append(
        {
            "sigma": sigma,
            "attack": attack,
            "networks": stages,
            "image": pair.picture.name,
            "target": pair.target.name,
            "clean_class": named(pair.clean),
            "target_class": named(pair.towards),
            "class": named(unit),
            "cosine_to_clean": round(float((unit * pair.clean).sum()), 6),
            "cosine_to_target": round(float((unit * pair.towards).sum()), 6),
            "device": machine(),
        }
    )
