"""A whole run: the stages in order, each from its checkpoint, and the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsfast.models import OneStepPurifier, SmoothnessMapper, UNet
from train.checkpoint import save_weights
from train.config import StudyConfig
from train.data import StudyData, study_set
from train.defence import Defence
from train.encoder import Classifier, EncoderStage, VanillaEncoder
from train.evaluate import evaluate
from train.examples import write_examples
from train.loop import Place, Stage, run_stage
from train.mapper import MapperStage
from train.purifier import PurifierStage
from train.report import write_results


def train(config: StudyConfig, place: Place, device: torch.device) -> dict[str, Any]:
    """Train all stages and measure the result.

    Args:
        config: of the run.
        place: where its files are; finished stages are taken from their last checkpoint.
        device: of networks and data.

    Returns:
        the record in results.json.

    Raises:
        ValueError: checkpoints of another configuration are in the way.
    """
    size = config.encoder.vit.image_size
    data = StudyData("train", config.seed, size, device)
    # What `VanillaEncoder.tokens` gives.
    about = {"output": "tokens+ln_post", "encoder": config.encoder.vit.to_record()}

    def save(name: str, weights: dict[str, Tensor], stage: Stage) -> None:
        save_weights(place.folder / f"{name}.safetensors", weights, stage.digest, config.sigma, about)

    first = EncoderStage(config, data)
    classifier = _trained(first, place)
    assert isinstance(classifier, Classifier)
    encoder, class_features = classifier.encoder, classifier.class_features.detach()
    save("encoder", encoder.state_dict(), first)
    save("class_features", {"class_features": class_features}, first)

    second = PurifierStage(config, data, encoder)
    unet = _trained(second, place)
    assert isinstance(unet, UNet)
    save("purifier", unet.state_dict(), second)
    purifier = OneStepPurifier(unet, config.sigma)

    mappers = []
    for third in (MapperStage(config, data, encoder, purifier), MapperStage(config, data, encoder, None)):
        mapper = _trained(third, place)
        assert isinstance(mapper, SmoothnessMapper)
        save(third.name, mapper.state_dict(), third)
        mappers.append(mapper)

    test = study_set(config.seed, config.evaluation.images, size).to(device)
    defences = _ablation(config, encoder, purifier, *mappers)
    measured, attacked = evaluate(config, test, defences, class_features)
    write_examples(place.folder / "examples", test, attacked)
    return write_results(place.folder, config, measured, _seconds(place.folder), torch.get_num_threads())


def _trained(stage: Stage, place: Place) -> nn.Module:
    module = run_stage(stage, place)
    return module.requires_grad_(False)


def _ablation(
    config: StudyConfig,
    encoder: VanillaEncoder,
    purifier: OneStepPurifier,
    mapper: SmoothnessMapper,
    alone: SmoothnessMapper,
) -> list[Defence]:
    """The rows of the paper's Table 5, as an engine's stages can be chosen; the whole defence comes last.

    A mapper that was trained behind a purifier has never seen what it gets without one; so there is a row for one
    that was trained alone.
    """
    sigma = config.sigma
    return [
        Defence("encoder alone", sigma, encoder),
        Defence("+ mapper, trained alone", sigma, encoder, mapper=alone),
        Defence("+ mapper", sigma, encoder, mapper=mapper),
        Defence("+ purifier", sigma, encoder, purifier),
        Defence("+ both", sigma, encoder, purifier, mapper),
    ]


def _seconds(folder: Path) -> dict[str, float]:
    """Training time of every stage: the last entry of each in the log."""
    rows = (json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["stage"]: round(row["seconds"], 1) for row in rows}
