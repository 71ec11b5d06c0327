"""Tensors of safetensors checkpoints as NumPy arrays, without torch; only files that are asked for are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from fsfast.errors import CheckpointError, brief
from fsfast.models.weight_index import INDEX_SUFFIX, check_names, read_json, refuse_text, weight_map
from fsfast.strict_json import parse_json

_INDEX = f"model.safetensors{INDEX_SUFFIX}"
_FLOATS = ("F16", "BF16", "F32", "F64")


def find_tensors(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return tensor → file of a checkpoint.

    Args:
        path: a safetensors file, an index of such files, or a directory with one of them.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    main = _main_file(Path(path))
    if main.name.endswith(INDEX_SUFFIX):
        return weight_map(main)
    with _opened(main) as file:
        names = list(file.keys())
    check_names(main, names)
    return dict.fromkeys(names, main)


def read_array(file: Path, name: str) -> np.ndarray:
    """Return a tensor as float32.

    Raises:
        CheckpointError: the file is missing or damaged, does not hold it, or its values are no finite numbers.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: the shard is missing, which holds {name}; download it, too")
    with _opened(file) as tensors:
        if name not in tensors.keys():  # noqa: SIM118
            raise CheckpointError(f"{file}: wanted {name} in it, as the index says; download both again")
        stored = tensors.get_slice(name).get_dtype()
        if stored not in _FLOATS:
            raise CheckpointError(
                f"{file}: wanted {name} in floating point, got {stored}; take weights as trained"
            )
        values = _bfloat16(file, name) if stored == "BF16" else tensors.get_tensor(name)
    array = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(f"{file}: {name} has values that are NaN or infinite; get it again")
    return array


def settings_beside(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return config.json beside the weights, {} without one; beside a file named alone it may be another model's.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = folder / "config.json"
    alone = path.is_file() and not path.name.endswith(INDEX_SUFFIX)
    return {} if alone or not config.is_file() else read_json(config)


def _main_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"wanted a safetensors file, an index or a directory, found none at {path}")
    files = sorted(path.glob("*.safetensors"))
    for main in (path / "model.safetensors", path / _INDEX):
        if main.is_file():
            return main
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:3]) or "none"
        raise CheckpointError(
            f"{path}: wanted model.safetensors, its index or one safetensors file, found {found}; name the file, or "
            "save weights of torch.save as safetensors first"
        )
    return files[0]


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, "numpy")
    # The library raises SafetensorError for a bad header, OSError for the rest.
    except Exception as error:
        with file.open("rb") as handle:
            refuse_text(file, handle.read(512))
        raise CheckpointError(
            f"{file}: wanted a safetensors file, got another or a damaged one ({brief(error)}); get it again, or save "
            "weights of torch.save as safetensors"
        ) from None


def _bfloat16(file: Path, name: str) -> np.ndarray:
    """NumPy has no bfloat16: its numbers are the upper halves of float32's. The library has checked the header."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        entry = parse_json(handle.read(length))[name]
        begin, end = entry["data_offsets"]
        handle.seek(8 + length + begin)
        halves = np.frombuffer(handle.read(end - begin), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
