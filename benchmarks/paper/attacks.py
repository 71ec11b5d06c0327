"""Attacked images for the FCS: towards the features of the next image, on the encoder without noise."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from benchmarks.paper.study import Study
from benchmarks.paper.work import Advance, Part
from fsfast.files import write_whole
from fsfast.models.torch_function import TorchFunction
from train.attack import Attack
from train.images import levels_of

# ℓ∞ 16/255, as in the paper's tables.
RADIUS = 16
# Of 255, per iteration.
STEP = 1.0


def part(study: Study) -> Part:
    """Return the work: a picture for every image."""
    # Forward, and backward to the pixels.
    each = 2.0 * study.request.attack_steps * study.flops(None, ["encoder"])
    left = [i for i in study.images if not study.attacked(i).exists()]
    done = len(study.images) - len(left)
    return Part("attacks", len(study.images) * each, done * each, partial(_attack, study, left, each))


def _attack(study: Study, left: Sequence[int], each: float, advance: Advance) -> None:
    study.attacked(0).parent.mkdir(exist_ok=True)
    spec, device = study.purified[0], torch.device(study.request.device)
    encoder = TorchFunction(study.engines[spec], ("encoder",)).to(device)
    attack = Attack(RADIUS, STEP, study.request.attack_steps)
    for i in left:
        clean, target = (levels_of(study.image(j, spec), device) for j in (i, (i + 1) % len(study.images)))
        with torch.no_grad():
            towards = encoder(target)
        attacked = attack.run(clean, _score(encoder, towards), f"attack {i + 1}/{len(study.images)}")
        buffer = io.BytesIO()
        Image.fromarray(attacked[0].permute(1, 2, 0).byte().cpu().numpy()).save(buffer, "PNG")
        write_whole(study.attacked(i), buffer.getvalue())
        advance(each)


def _score(encoder: TorchFunction, towards: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return the mean cosine of the tokens to those of the target."""
    return lambda levels, _: (encoder(levels) * towards).sum((1, 2))
