"""One training loop for all stages: schedule, moving average, progress, checkpoints."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.checkpoint import load_checkpoint, save_checkpoint
from train.config import Schedule

_CLIP = 1.0
_LOG_EVERY = 50


class Stage(Protocol):
    """What the loop wants of a stage."""

    name: str
    schedule: Schedule
    # Of everything that the stage depends on.
    digest: str
    # The same in parts, in words, each with a digest; may be empty.
    parts: Mapping[str, str]

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and what to show; a function of the weights and the step's number alone."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a run lives.

    Attributes:
        folder: of its files.
        checkpoint_seconds: between two checkpoints.
        stop_after: stop a stage after this many steps of this process (for tests), or None.
    """

    folder: Path
    checkpoint_seconds: float = 60.0
    stop_after: int | None = None


def step_generator(seed: int, stage: str, step: int, device: torch.device) -> torch.Generator:
    """Return a generator whose numbers depend on seed, stage and step alone, so that a resumed run repeats them."""
    name = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(name[:8], "little") >> 1)


def rate(schedule: Schedule, step: int) -> float:
    """Return the learning rate of a step: linear warm-up times a cosine from 1 to 0.02."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup))
    return schedule.rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / schedule.steps)))


def run_stage(stage: Stage, place: Place) -> nn.Module:
    """Train a stage to its end.

    Returns:
        a copy of the stage's module with the moving average of its weights, in evaluation mode.

    Raises:
        ValueError: a checkpoint of another configuration is in the way.
        FloatingPointError: the loss is not finite.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(stage)
    path = place.folder / f"{stage.name}.checkpoint.pt"
    state = load_checkpoint(path, stage.digest, stage.parts)
    if state is not None:
        trainer.load_state(state)
    first = trainer.step
    last = (
        stage.schedule.steps
        if place.stop_after is None
        else min(stage.schedule.steps, first + place.stop_after)
    )
    saved = time.monotonic()
    with tqdm(total=stage.schedule.steps, initial=first, desc=stage.name, mininterval=5.0) as bar:
        while trainer.step < last:
            shown = trainer.advance()
            bar.update()
            if trainer.step % _LOG_EVERY == 0 or trainer.step == last:
                bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
                log(
                    place.folder,
                    {"stage": stage.name, "step": trainer.step, "seconds": trainer.seconds, **shown},
                )
            if trainer.step == last or time.monotonic() - saved > place.checkpoint_seconds:
                save_checkpoint(path, {"run": stage.digest, "parts": dict(stage.parts), **trainer.state()})
                saved = time.monotonic()
    return trainer.average.eval()


class _Trainer:
    """The state of one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.average = copy.deepcopy(stage.module).requires_grad_(False)
        self.optimizer = _optimizer(stage.module, stage.schedule)
        self.step = 0
        self.seconds = 0.0

    def advance(self) -> dict[str, float]:
        """Take one step; returns what to show."""
        begin = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.stage.schedule, self.step)
        loss, shown = self.stage.loss(self.step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of {self.stage.name} at step {self.step} is {loss.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.stage.module.parameters(), _CLIP)
        self.optimizer.step()
        self._average()
        self.step += 1
        self.seconds += time.monotonic() - begin
        return {"loss": loss.item(), **shown}

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps count for more, so that the random start is forgotten.
        decay = min(self.stage.schedule.ema, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.stage.module.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)

    @property
    def finished(self) -> bool:
        return self.step >= self.stage.schedule.steps

    def state(self) -> dict[str, Any]:
        state = {"step": self.step, "seconds": self.seconds, "average": self.average.state_dict()}
        if self.finished:
            # Only the average is handed on: a quarter of the size.
            return state
        return state | {
            "module": self.stage.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.average.load_state_dict(state["average"])
        if self.finished:
            return
        self.stage.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        matrix = parameter.ndim >= 2 and not name.endswith(("embedding", "class_features"))
        (decayed if matrix else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))


def log(folder: Path, row: dict[str, Any]) -> None:
    """Add a line to the log of a run."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
