"""One weights file: which kind it is, and its tensors by name; nothing that is in it is run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from fsfast.errors import CheckpointError
from fsfast.file_kind import HEAD_BYTES, recognise
from fsfast.models.averages import WRAPPERS, Choice, Weights, descend
from fsfast.models.weight_index import refuse_text

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_QUANTISED = "quantised weights cannot be used, take the checkpoint that they were made from"
_MAX_WRAPPERS = 3
# As the safetensors library has it.
_MAX_HEADER_BYTES = 100_000_000
# The pickle of torch.save holds names and shapes: 50 kB for adm256's 566 tensors.
_MAX_PICKLE_BYTES = 16 << 20
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
# Types of safetensors in torch's words.
_STORED = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "U8": "uint8",
}


class TensorFile(Protocol):
    """The tensors of one file.

    Attributes:
        choice: where they stand in it.
    """

    choice: Choice

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""

    def dtype(self, name: str) -> str:
        """Type of a tensor, as torch calls it, without reading its values."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading its values."""

    def read(self, name: str) -> Tensor:
        """Values of a tensor as stored; they may lie in the mapped file."""


class _Safetensors:
    choice = Choice()

    def __init__(self, file: Any) -> None:
        self._file = file
        self.names = frozenset(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        stored = self._file.get_slice(name).get_dtype()
        return _STORED.get(stored, stored)

    def read(self, name: str) -> Tensor:
        return self._file.get_tensor(name)


class _StateDict:
    def __init__(self, tensors: dict[str, Tensor], choice: Choice) -> None:
        self.choice = choice
        self._tensors = tensors
        self.names = frozenset(tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        return _name(self._tensors[name].dtype)

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


def _open_safetensors(path: Path) -> TensorFile:
    try:
        try:
            return _Safetensors(safe_open(path, framework="pt"))
        except Exception as error:
            if not _cannot_map(error):
                raise
            return _StateDict(load(path.read_bytes()), Choice())
    # The library raises SafetensorError for a bad header, OSError for the rest.
    except Exception as error:
        raise _damaged(path, error) from None


def _load_pickle(path: Path, *, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if not (mapped and _cannot_map(error)):
            raise
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)


def _cannot_map(error: Exception) -> bool:
    """Whether a library says that the file system cannot map files: some do not, on a network or in a container.

    The file is then read whole: nothing is wrong with it.
    """
    text = str(error)
    return "No such device" in text or "unable to mmap" in text or "os error 19" in text


def open_tensors(path: Path, weights: Weights | None = None) -> TensorFile:
    """Open a weights file by what is in it, whatever its name.

    Args:
        path: a safetensors file, or one of torch.save that holds tensors alone.
        weights: which of several state dicts is meant; None: there must be one.

    Raises:
        SeveralStateDicts: there are several, and this does not tell which.
        CheckpointError: no such file; another kind of file (a web page, a pointer of git-lfs, a TorchScript
            archive, …); truncated or damaged; or Python objects in it, which are never unpickled.
    """
    kind = _kind(path)
    if kind == "safetensors":
        return _open_safetensors(path)
    if kind == "zip":
        _check_zip(path)
    try:
        # Mapped, so that the other tensors of a large file are never read; the old format has to be read whole.
        content = _load_pickle(path, mapped=kind == "zip")
    # A malformed pickle raises anything: UnpicklingError, EOFError, RuntimeError, KeyError, …
    except Exception as error:
        raise _not_loaded(path, error) from None
    return _StateDict(*_state_dict(content, path, weights))


def as_float32(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return the values in float32, in memory of their own, so that the file may change or go afterwards.

    Raises:
        CheckpointError: not a plain tensor of floating-point numbers, or some are not finite in float32.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"{path}: wanted {name} as float16, bfloat16, float32 or float64, got {tensor.dtype}; {_QUANTISED}"
        )
    copied = tensor.detach().to(torch.float32, copy=True).contiguous()
    # One pass without a copy: NaN is passed on by both.
    if copied.numel() and not all(torch.isfinite(extreme) for extreme in torch.aminmax(copied)):
        bad = copied.numel() - int(torch.isfinite(copied).sum())
        raise CheckpointError(
            f"{path}: {bad} of {copied.numel()} values of {name} are NaN or infinite; "
            "the file is damaged or its training diverged: get it again, or choose another checkpoint"
        )
    return copied


def refuse_types(path: Path, dtypes: Iterable[str]) -> None:
    """Refuse types that `as_float32` does not take.

    Raises:
        CheckpointError: there are some.
    """
    known = {_name(dtype) for dtype in _FLOATS}
    if others := sorted(set(dtypes) - known):
        raise CheckpointError(
            f"{path}: wanted floating-point weights, got {' and '.join(others)}; {_QUANTISED}"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    try:
        with open(path, "rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror or error}") from None
    # A header's length can begin with any byte, so this comes first; read as one, text and pickles are far too long.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    refuse_text(path, head)
    kind = recognise(head)
    what = kind.what if kind is not None else f"something else that begins with {head[:24]!r}"
    raise CheckpointError(f"{path}: wanted a safetensors file or one of torch.save, got {what}")


def _check_zip(path: Path) -> None:
    """Refuse zip archives that torch.load would not take, with the reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # BadZipFile, NotImplementedError for an odd version, UnicodeDecodeError, …
    except Exception as error:
        raise _damaged(path, error) from None
    inside = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in inside:
        raise CheckpointError(
            f"{path}: this is a TorchScript archive, a program and not weights alone; on a machine that you trust "
            'with it, run: torch.save(torch.jit.load(path, map_location="cpu").state_dict(), "weights.pt")'
        )
    if "data.pkl" not in inside:
        raise CheckpointError(
            f"{path}: wanted a safetensors file or one of torch.save, got a zip archive of something else"
        )
    for entry in entries:
        # torch.save never compresses: a few bytes could become all of the memory.
        packed = entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
        if packed or (entry.filename.endswith("data.pkl") and entry.file_size > _MAX_PICKLE_BYTES):
            raise CheckpointError(
                f"{path}: wanted an archive of torch.save, which compresses nothing and describes tensors in at most "
                f"{_MAX_PICKLE_BYTES >> 20} MiB, got {entry.filename} with {entry.file_size} bytes in "
                f"{entry.compress_size}; save the state dict alone again, best as safetensors"
            )


def _not_loaded(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if refused := _REFUSED.search(text):
        return CheckpointError(
            f"{path}: wanted tensors alone, got a pickled {refused[1]}, which could run code and was not loaded; "
            "on a machine that you trust with it, save the state dict alone, best as safetensors"
        )
    if "Weights only load failed" in text and "truncated" not in text:
        return CheckpointError(
            f"{path}: wanted a state dict written by torch.save, got another pickle, which could run code and was "
            "not loaded; save the state dict alone, best as safetensors"
        )
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().split("\n")[0].split(". ")[0]
    if not (reason and reason.isprintable()):
        reason = type(error).__name__
    return CheckpointError(f"{path}: the file is truncated or damaged ({reason}); get it again")


def _state_dict(content: Any, path: Path, weights: Weights | None) -> tuple[dict[str, Tensor], Choice]:
    """The dictionary of tensors in what torch.load returned, and where it stands."""
    content, choice = descend(content, path, weights, _MAX_WRAPPERS)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path}: wanted a dictionary of tensors, got {'an empty one' if content == {} else type(content).__name__}"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: wanted a dictionary of tensors, alone or under {', '.join(WRAPPERS)}; "
                f"got {type(value).__name__} under {name!r}; save the state dict alone"
            )
    return content, choice
