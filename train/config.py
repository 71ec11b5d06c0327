"""What a training run is: sizes, schedules and weights of the losses, as frozen dataclasses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from fsfast.models import UNET_TINY, VIT_TINY, UNetConfig, ViTConfig


@dataclass(frozen=True)
class Schedule:
    """One stage's optimisation: AdamW with linear warm-up and a cosine decay to 2 % of the rate.

    Attributes:
        steps: optimiser steps.
        batch: images per step.
        rate: largest learning rate.
        warmup: steps of warm-up.
        weight_decay: on matrices and convolutions; vectors have none.
        ema: decay of the exponential moving average of the weights, which the stage hands on.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.99


@dataclass(frozen=True)
class EncoderConfig:
    """Stage 0: the vanilla encoder.

    Attributes:
        vit: its sizes.
        temperature: cosines times this are the logits.
        token_weight: weight of the cross-entropy of every token on its own.
        plain, full: shares of the training at which grounds start to get texture and have all of it.
        schedule: of the optimisation.
    """

    vit: ViTConfig
    temperature: float
    token_weight: float
    plain: float
    full: float
    schedule: Schedule


@dataclass(frozen=True)
class PurifierConfig:
    """Stage 1: the purifier.

    Attributes:
        unet: its sizes.
        cosine_weight, pixel_weight: of the loss; 0.25 and 0.25 in the paper.
        schedule: of the optimisation.
    """

    unet: UNetConfig
    cosine_weight: float
    pixel_weight: float
    schedule: Schedule


@dataclass(frozen=True)
class MapperConfig:
    """Stage 2: the mapper.

    Attributes:
        blocks: residual blocks.
        noises: per image and step; 8 in the paper.
        stats_weight, identity_weight: of the loss; 100 and 0.25 in the paper.
        schedule: of the optimisation.
    """

    blocks: int
    noises: int
    stats_weight: float
    identity_weight: float
    schedule: Schedule


@dataclass(frozen=True)
class EvaluationConfig:
    """The results table.

    Attributes:
        images: test images.
        n0: serving samples of the smoothed features.
        samples: noises per image in S.
        attack_steps: of the attack on the plain encoder.
        adaptive_steps, adaptive_noises: of the attack on the whole defence.
    """

    images: int
    n0: int
    samples: int
    attack_steps: int
    adaptive_steps: int
    adaptive_noises: int


@dataclass(frozen=True)
class StudyConfig:
    """A whole run.

    Attributes:
        seed: of data, weights and noise.
        sigma: noise level in [0,1] pixel units.
        encoder, purifier, mapper, evaluation: the stages in their order.
    """

    seed: int
    sigma: float
    encoder: EncoderConfig
    purifier: PurifierConfig
    mapper: MapperConfig
    evaluation: EvaluationConfig

    def to_record(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        record = asdict(self)
        record["encoder"]["vit"] = self.encoder.vit.to_record()
        return record

    def digest(self, stage: str = "evaluation") -> str:
        """Return a sha256 that changes with any field that a stage depends on: its own and earlier stages'.

        Args:
            stage: "encoder", "purifier", "mapper" or "evaluation".
        """
        record = self.to_record()
        fields = list(record)
        depends = {field: record[field] for field in fields[: fields.index(stage) + 1]}
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


DEMO = StudyConfig(
    seed=0,
    sigma=0.25,
    encoder=EncoderConfig(
        vit=VIT_TINY,
        temperature=16.0,
        token_weight=0.5,
        plain=0.1,
        full=0.4,
        schedule=Schedule(steps=4000, batch=64, rate=2e-3, warmup=200),
    ),
    purifier=PurifierConfig(
        unet=UNET_TINY,
        cosine_weight=0.25,
        pixel_weight=0.25,
        schedule=Schedule(steps=3000, batch=48, rate=2e-3, weight_decay=0.01),
    ),
    mapper=MapperConfig(
        blocks=3,
        noises=8,
        stats_weight=0.1,
        identity_weight=0.25,
        schedule=Schedule(steps=1200, batch=8, rate=3e-3, weight_decay=0.01),
    ),
    evaluation=EvaluationConfig(
        images=200, n0=4, samples=64, attack_steps=50, adaptive_steps=50, adaptive_noises=8
    ),
)


def quick(config: StudyConfig) -> StudyConfig:
    """Return a run that executes every line of a study in under a minute; its results mean nothing."""

    def few(schedule: Schedule) -> Schedule:
        return replace(schedule, steps=4, batch=4, warmup=2)

    return replace(
        config,
        encoder=replace(config.encoder, schedule=few(config.encoder.schedule)),
        purifier=replace(config.purifier, schedule=few(config.purifier.schedule)),
        mapper=replace(config.mapper, noises=2, schedule=few(config.mapper.schedule)),
        evaluation=EvaluationConfig(
            images=6, n0=2, samples=4, attack_steps=2, adaptive_steps=1, adaptive_noises=2
        ),
    )
