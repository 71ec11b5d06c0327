"""Files of a run: checkpoints that survive a kill, and finished weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fsfast.files import replacing

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and swap it in.

    Raises:
        OSError: the file cannot be written: the disk is full, or a limit is reached.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            write(temporary)
    # torch and safetensors tell failed writes in their own ways.
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"cannot write {path}: {reason}; is the disk full?") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, strings, lists and dictionaries of these)."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path, run: str, parts: Mapping[str, str] = _NOTHING) -> dict[str, Any] | None:
    """Read a training state; None if there is none.

    Args:
        path: of the checkpoint.
        run: the digest of the run's configuration.
        parts: of the configuration, in words, with a digest each; a refusal says which changed. May be empty.

    Raises:
        ValueError: the checkpoint is of another run.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        before = state.get("parts") or {}
        changed = [name for name, digest in parts.items() if before and before.get(name) != digest]
        what = " and the ".join(changed) or "configuration"
        raise ValueError(
            f"wanted a checkpoint of run {run[:12]}, got one of {state['run'][:12]} at {path}: the {what} changed; "
            f"go back to what the run began with, choose another --out, or remove {path.parent / '*.checkpoint.pt'} "
            "to begin again"
        )
    return state


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    run: str,
    sigma: float,
    about: Mapping[str, Any] = _NOTHING,
) -> None:
    """Write finished weights as safetensors with a header, JSON under "training", that the export compares.

    Args:
        path: of the file.
        weights: name → tensor.
        run: the run's digest.
        sigma: noise level in [0,1] pixel units.
        about: what else the weights were trained for: `output` of the encoder as --output names it, and `encoder`,
            the fields of its ViTConfig.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # One entry: safetensors writes several in any order.
    header = {"training": json.dumps({"run": run, "sigma": sigma, **about})}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, header))
