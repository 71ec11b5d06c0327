"""Fill a module with a checkpoint's tensors: all of them, or one report of what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.layouts import Source
from fsfast.models.checkpoints.shards import Checkpoint, ReadFile

_SHOWN = 3
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A network with the weights of a checkpoint.

    Attributes:
        module: float32 on the CPU, in evaluation mode, without gradients.
        layout: whose names the checkpoint uses: "open_clip", "transformers", "guided-diffusion" or "fsfast".
        files: what was read, with hashes: the provenance of the weights.
        notes: what was not visible in the weights and who says so, what was added, and how the weights were stored.
    """

    module: M
    layout: str
    files: tuple[ReadFile, ...]
    notes: tuple[str, ...]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's weights."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@dataclass(frozen=True)
class Differences:
    """What keeps a checkpoint from being what a module needs.

    Attributes:
        missing: names of tensors that are not there.
        unexpected: those that nobody asked for.
        misshapen: those of another shape, with both.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    def __str__(self) -> str:
        """The first of each kind."""
        kinds = (
            (self.missing, "missing"),
            (self.unexpected, "unexpected"),
            (self.misshapen, "of another shape"),
        )
        return "; ".join(f"{len(found)} {kind}: {first_of(found)}" for found, kind in kinds if found)


def first_of(names: Sequence[str]) -> str:
    """Return the first few names."""
    return f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"


def stored_shapes(
    shapes: Mapping[str, tuple[int, ...]], sources: Mapping[str, Source]
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a checkpoint should have, of the weights of a module and where they are."""
    return {
        name: source.stored_shape(shapes[weight])
        for weight, source in sources.items()
        for name in source.stored
    }


def differences(
    checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], concerns: Callable[[str], bool]
) -> Differences:
    """Compare a checkpoint with what a module needs.

    Args:
        checkpoint: to read.
        wanted: name → shape.
        concerns: whether a tensor that nobody asked for is one too many.

    Raises:
        CheckpointError: tensors are empty, or a shard is missing.
    """
    # Shapes first: they open the shards, whose own names then count, too.
    came = {name: checkpoint.shape(name) for name in wanted if name in checkpoint.names}
    gathered(checkpoint.path, came)
    return Differences(
        tuple(name for name in wanted if name not in came),
        tuple(sorted(name for name in checkpoint.names - wanted.keys() if concerns(name))),
        tuple(
            f"{name} (wanted {_times(wanted[name])}, got {_times(shape)})"
            for name, shape in came.items()
            if shape != wanted[name]
        ),
    )


def check_fit(
    checkpoint: Checkpoint,
    shapes: dict[str, tuple[int, ...]],
    sources: dict[str, Source],
    concerns: Callable[[str], bool],
    what: str,
    remedy: str,
) -> None:
    """Refuse a checkpoint that is not exactly what a module needs.

    Args:
        checkpoint: to read.
        shapes: weight of the module → shape.
        sources: weight of the module → where it is.
        concerns: whether a tensor that nobody asked for is one too many.
        what: the module, in words.
        remedy: what to do about it.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of another shape.
    """
    wanted = stored_shapes(shapes, sources)
    if found := str(differences(checkpoint, wanted, concerns)):
        raise CheckpointError(
            f"{checkpoint.path}: wanted {len(wanted)} tensors, {what}; {found}. "
            f"Remedy: {remedy_for(checkpoint.path, remedy)}"
        )


@torch.no_grad()
def fill(
    module: M, checkpoint: Checkpoint, sources: dict[str, Source], added: dict[str, Tensor] | None = None
) -> M:
    """Give a module on the meta device the tensors of a checkpoint that fits.

    Args:
        module: without memory; the tensors become its weights, so that nothing is held twice.
        checkpoint: that `check_fit` let pass.
        sources: weight → where it is.
        added: weights that come from elsewhere.

    Returns:
        the module in evaluation mode, without gradients.

    Raises:
        CheckpointError: a tensor cannot be read, or is not finite.
    """
    tensors = dict(added or {})
    for weight, source in sources.items():
        tensors[weight] = read(checkpoint, source)
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def read(checkpoint: Checkpoint, source: Source) -> Tensor:
    """Return a weight as the module has it.

    Raises:
        CheckpointError: a tensor cannot be read, or is not finite.
    """
    found = {name: checkpoint.read(name) for name in source.stored}
    zeros = torch.zeros_like(next(iter(found.values())))
    parts = [zeros if name is None else found[name] for name in source.names]
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if source.thirds != (0, 3):
        begin, end = source.thirds
        third = len(tensor) // 3
        # Memory of its own: the other thirds are another weight's.
        tensor = tensor[begin * third : end * third].clone()
    if source.frames:
        tensor = tensor.sum(dim=2)
    tensor = tensor.reshape(tensor.shape[source.leading :])
    if source.zeros:
        tensor = torch.cat([tensor.new_zeros(source.zeros, *tensor.shape[1:]), tensor])
    return tensor.T.contiguous() if source.transposed else tensor


def gathered(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors without elements.

    Raises:
        CheckpointError: there are some: they were saved by one process of several, each of which had a part.
    """
    empty = [name for name, shape in shapes.items() if shape == (0,)]
    if empty:
        raise CheckpointError(
            f"{path}: {len(empty)} tensors without elements ({empty[0]}, …), as DeepSpeed's ZeRO-3 leaves them where "
            "weights are saved without being gathered; make whole ones from the run's folder with zero_to_fp32.py, or "
            "train with stage3_gather_16bit_weights_on_model_save"
        )


def remedy_for(path: Path, remedy: str) -> str:
    """Return the remedy, or a better one where the path is one shard of several."""
    return (
        "this is one shard of several: give the directory or the index"
        if _SHARD.search(path.name)
        else remedy
    )


def storage_note(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say that the weights were not stored as float32, if so."""
    other = sorted(checkpoint.dtypes - {"float32"})
    return (f"cast to float32 from {' and '.join(other)}",) if other else ()


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
