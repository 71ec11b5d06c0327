"""The engines of the study: trained where that is asked for, exported, and found again by a second call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.measuring.rows import Rows
from benchmarks.paper.request import Inputs, Request, recipe_for
from export.build import build_engine
from fsfast.engine.engine import Engine, load_engine
from fsfast.errors import EngineError
from train.loop import Place
from train.place import prepare
from train.psm import train_psm
from train.psm_setting import PsmConfig

_COLUMNS = ("engine", "sigma", "stages", "digest", "megabytes")


@dataclass(frozen=True)
class Spec:
    """One engine.

    Attributes:
        sigma: noise level.
        purifier: preset, or None.
    """

    sigma: float
    purifier: str | None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.purifier or 'no-purifier'}-sigma-{self.sigma:g}"


def specs(request: Request, inputs: Inputs) -> list[Spec]:
    """Return the engines of all tables, at every σ without and with the first purifier; others at the first σ."""
    first, *others = inputs.purifiers
    found = [Spec(sigma, purifier) for sigma in request.sigmas for purifier in (None, first)]
    return [*found, *(Spec(request.sigmas[0], purifier) for purifier in others)]


def open_all(
    request: Request, inputs: Inputs, report: Callable[[str], None] = print
) -> Iterator[tuple[Spec, Engine]]:
    """Yield every engine, trained and exported where an earlier call has not.

    Raises:
        FsfastError, ValueError, OSError: as `train_psm` and `build_engine`.
    """
    table = Rows(request.out / "engines.csv", _COLUMNS, ("engine", "digest"))
    trained: dict[float, Path] = {}
    for spec in sorted(specs(request, inputs), key=lambda spec: spec.purifier is None):
        purifier, mapper = _weights(request, inputs, spec, trained)
        path = request.work / spec.name
        engine = _found(path, table, spec)
        if engine is None:
            recipe = recipe_for(request, spec.sigma, purifier, mapper)
            # Parity is measured at 1 and at 3 rows; adm256 takes seconds for each.
            build_engine(
                recipe, path, force=path.exists(), micro_batch=1, report=partial(_report, report, spec)
            )
            engine = load_engine(path)
            size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
            stages = "+".join(engine.manifest.stages)
            row = (spec.name, spec.sigma, stages, engine.digest, round(size))
            table.append(dict(zip(_COLUMNS, row, strict=True)))
        yield spec, engine


def _report(report: Callable[[str], None], spec: Spec, line: str) -> None:
    report(f"{spec.name}: {line}")


def _found(path: Path, table: Rows, spec: Spec) -> Engine | None:
    if not path.exists():
        return None
    try:
        engine = load_engine(path)
    except EngineError:
        return None
    return engine if (spec.name, engine.digest) in table else None


def _weights(
    request: Request, inputs: Inputs, spec: Spec, trained: dict[float, Path]
) -> tuple[tuple[str, Path] | None, Path | None]:
    """Return the files of an engine's purifier and mapper; without a purifier the mapper of the first one."""
    purifier = None if spec.purifier is None else (spec.purifier, inputs.purifiers[spec.purifier])
    if request.train is None:
        return purifier, request.mapper
    if purifier is None:
        return None, trained[spec.sigma] / "mapper.safetensors"
    run = request.work / f"train-{spec.name}"
    _train(request, spec, purifier, run)
    trained.setdefault(spec.sigma, run)
    # Of 0 steps there is no new one.
    file = run / "purifier.safetensors" if request.purifier_steps else purifier[1]
    return (purifier[0], file), run / "mapper.safetensors"


def _train(request: Request, spec: Spec, purifier: tuple[str, Path], run: Path) -> None:
    """Train purifier and mapper by Algorithm 1; what an earlier call did is taken from its checkpoints."""
    assert request.train is not None
    config = PsmConfig(bf16=request.on_gpu, checkpointing=request.on_gpu)
    config = replace(
        config,
        purifier=replace(config.purifier, steps=request.purifier_steps),
        mapper=replace(config.mapper, steps=request.mapper_steps),
    )
    prepare(run, resume=True)
    recipe = recipe_for(request, spec.sigma, purifier, None)
    train_psm(config, recipe, request.train, Place(run, checkpoint_seconds=600), torch.device(request.device))
    if request.on_gpu:
        # torch keeps what training freed; the networks that follow may be run by another library.
        torch.cuda.empty_cache()
