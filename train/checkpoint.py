"""Files of a run: checkpoints that survive a kill, and finished weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and swap it in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, strings, lists and dictionaries of these)."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path, run: str) -> dict[str, Any] | None:
    """Read a training state; None if there is none.

    Args:
        path: of the checkpoint.
        run: the digest of the run's configuration.

    Raises:
        ValueError: the checkpoint is of another run.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise ValueError(
            f"wanted a checkpoint of run {run[:12]}, got one of {state['run'][:12]} at {path}: the configuration "
            "changed; choose another --out, or start afresh without --resume"
        )
    return state


def save_weights(path: Path, weights: dict[str, Tensor], run: str, sigma: float) -> None:
    """Write finished weights as safetensors, with the run's digest and σ in the header, as JSON under "training"."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # One entry: safetensors writes several in any order.
    header = {"training": json.dumps({"run": run, "sigma": sigma})}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, header))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read finished weights.

    Raises:
        ValueError: there are none.
    """
    if not path.exists():
        raise ValueError(f"wanted trained weights at {path}, got no file; run: python -m train demo")
    return load_file(path)
