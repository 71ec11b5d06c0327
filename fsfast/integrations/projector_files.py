"""The layers of a LLaVA's projector in its checkpoints, as transformers and LLaVA's own repository name them."""

from __future__ import annotations

import os
import re
from itertools import pairwise

import numpy as np

from fsfast.errors import CheckpointError
from fsfast.models.safetensors_arrays import find_tensors, read_array, settings_beside

# linear_1 and linear_2 of transformers; 0, 2, … of the original repository, or none where there is one layer.
_LAYER = re.compile(
    r"(?:model\.)?(?:multi_modal_projector\.linear_(?P<counted>\d+)|mm_projector(?:\.(?P<place>\d+))?)"
    r"\.(?P<part>weight|bias)"
)
_PROJECTOR = re.compile(r"(?:model\.)?(?:multi_modal|mm)_projector\.")
_TYPE = re.compile(r"linear|mlp\d+x_gelu")
Layer = tuple[np.ndarray, np.ndarray]


def read_layers(path: str | os.PathLike[str]) -> tuple[Layer, ...]:
    """Return weight [out, in] and bias [out] of each layer, float32; arguments and errors as `from_checkpoint`."""
    _check_kind(path)
    files = {name: file for name, file in find_tensors(path).items() if _PROJECTOR.match(name)}
    if not files:
        raise CheckpointError(f"{path}: wanted the projector of a LLaVA, got none; name the whole checkpoint")
    parts: dict[int, dict[str, np.ndarray]] = {}
    for name, file in files.items():
        if (found := _LAYER.fullmatch(name)) is None:
            raise CheckpointError(f"{path}: wanted linear layers alone in the projector, got {name}, too")
        place = int(found["counted"] or found["place"] or 0)
        parts.setdefault(place, {})[found["part"]] = read_array(file, name)
    return _in_order(path, parts)


def _check_kind(path: str | os.PathLike[str]) -> None:
    """Refuse what settings beside the weights call by another name; without them it is LLaVA's own kind."""
    said = settings_beside(path)
    activation, kind = said.get("projector_hidden_act", "gelu"), said.get("mm_projector_type", "linear")
    if activation != "gelu" or not _TYPE.fullmatch(str(kind)):
        got = activation if activation != "gelu" else kind
        raise CheckpointError(
            f"{path}: wanted a projector of linear layers and GELU, its config.json says {got!r}"
        )


def _in_order(path: str | os.PathLike[str], parts: dict[int, dict[str, np.ndarray]]) -> tuple[Layer, ...]:
    places = sorted(parts)
    whole = all("weight" in part for part in parts.values())
    # transformers counts the layers; in the other list each second place is GELU's.
    if not whole or places not in ([1, 2], list(range(0, 2 * len(places), 2))):
        raise CheckpointError(
            f"{path}: wanted all layers of the projector, got some ({places}); get it again"
        )
    weights = [parts[place]["weight"] for place in places]
    biases = [
        parts[place].get("bias", np.zeros(len(w), np.float32))
        for place, w in zip(places, weights, strict=True)
    ]
    shapes = [[list(w.shape), list(b.shape)] for w, b in zip(weights, biases, strict=True)]
    fits = all(len(w) == 2 and w[:1] == b for w, b in shapes)
    if not fits or any(after[1] != before[0] for (before, _), (after, _) in pairwise(shapes)):
        raise CheckpointError(
            f"{path}: wanted layers that follow each other, got weights and biases {shapes}"
        )
    return tuple(zip(weights, biases, strict=True))
