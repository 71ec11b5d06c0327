"""How a checkpoint wants pictures prepared, as the files beside it say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsfast.errors import CheckpointError
from fsfast.models.checkpoints.shards import Checkpoint

_TRANSFORMERS, _OPEN_CLIP = "preprocessor_config.json", "open_clip_config.json"
# Pillow's numbers.
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_FITS = {"shortest": "crop", "squash": "squash", "longest": "pad"}


@dataclass(frozen=True)
class Preparation:
    """What is said; None for what is not.

    Attributes:
        by: the file that says it.
        mean, std: of the channels.
        fit: "crop", "squash" or "pad", as a grid's.
        filter: as a grid's.
    """

    by: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    fit: str | None
    filter: str | None


def preparation_said(checkpoint: Checkpoint) -> Preparation | None:
    """Read preprocessor_config.json, or else open_clip_config.json, beside the weights; None without either.

    Raises:
        CheckpointError: the file is not JSON, or mean and standard deviation are not three numbers each.
    """
    record = checkpoint.settings(_TRANSFORMERS)
    if record is not None:
        fit, resample = _fit(record), record.get("resample")
        filter_ = _FILTERS.get(resample) if isinstance(resample, int) else None
        mean, std = (
            _channels(checkpoint, _TRANSFORMERS, record.get(f"image_{name}")) for name in ("mean", "std")
        )
        return Preparation(_TRANSFORMERS, mean, std, fit, filter_)
    said = (checkpoint.settings(_OPEN_CLIP) or {}).get("preprocess_cfg")
    if not isinstance(said, dict):
        return None
    mean, std = (_channels(checkpoint, _OPEN_CLIP, said.get(name)) for name in ("mean", "std"))
    fit = _FITS.get(str(said.get("resize_mode")))
    return Preparation(_OPEN_CLIP, mean, std, fit, said.get("interpolation"))


def _fit(record: dict[str, Any]) -> str | None:
    if record.get("do_center_crop"):
        return "crop"
    size = record.get("size")
    if isinstance(size, dict):
        # A short side alone keeps the picture's proportions, and no grid is like that.
        return "squash" if {"height", "width"} <= size.keys() else None
    return "squash" if "do_center_crop" in record else None


def _channels(checkpoint: Checkpoint, file: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(each, int | float) for each in value)
    ):
        raise CheckpointError(
            f"{checkpoint.path}: {file}: wanted mean and standard deviation as three numbers each, got {value!r}; "
            "get the file again"
        )
    return tuple(map(float, value))
