"""What `encode` returns: smoothed features, and a file to keep them in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fsfast.errors import FsfastError, brief
from fsfast.file_kind import FEATURES, recognise_file
from fsfast.files import replacing, write_whole
from fsfast.kernels.types import FeatureSums
from fsfast.notebook import facts
from fsfast.runtime.seeds import SeedOrigin
from fsfast.runtime.selecting import selected

_ARRAYS = ("features", "unit", "raw_mean", "seeds")
_TUPLES = ("seed_origins", "grid_sha256", "names", "sources", "certified")


@dataclass(frozen=True, eq=False)
class SmoothedFeatures:
    """Smoothed features of B images: a sequence of batches of one.

    `out[i]`, `out[2:5]`, `out[[0, 3]]` and `out[mask]` are batches again, iteration gives batches of one, and
    `np.asarray(out)` is `features`.

    Attributes:
        features: [B, L, D] float32 ([B, D] when pooled): per token the mean raw norm times the certified
            direction; what a language model receives.
        unit: same shape, float32: the direction alone; every token has norm 1 (or is zero).
        seeds: [B] uint64, the serving noise of each image.
        seed_origins: per image "os", "secret" or "replay".
        grid_sha256: per image, the hash of its pixels on the grid.
        n0: samples per image.
        sigma: noise level in [0,1] pixel units.
        engine, engine_digest, function_id: which engine, and which fixed function of it.
        random_weights: True when the engine's networks were never trained.
        raw_mean: same shape as features, float32: mean of the raw features, without a certificate; or None.
        names: per image its path, or None for one that came without a name. Empty in files of earlier versions.
        sources: per image where it came from, and how it came onto the grid: kind, size, mode, steps, sha256 of a
            file; as in a certificate. Empty in files of earlier versions.
        certified: per image whether it meets the policy of the server that served it; empty where there was none.
    """

    features: np.ndarray
    unit: np.ndarray
    seeds: np.ndarray
    seed_origins: tuple[SeedOrigin, ...]
    grid_sha256: tuple[str, ...]
    n0: int
    sigma: float
    engine: str
    engine_digest: str
    function_id: str
    random_weights: bool
    raw_mean: np.ndarray | None = None
    names: tuple[str | None, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    certified: tuple[bool | None, ...] = ()

    def __repr__(self) -> str:
        shape = list(self.features.shape)
        return f"SmoothedFeatures({self.engine}: features {shape}, n0 = {self.n0}, σ = {self.sigma:g})"

    def _repr_html_(self) -> str:
        rows = {
            "engine": self.engine + (" (random weights)" if self.random_weights else ""),
            "features": " × ".join(map(str, self.features.shape)) + f" {self.features.dtype}",
            "samples": f"n0 = {self.n0}, σ = {self.sigma:g}",
            "seeds": ", ".join(sorted(set(self.seed_origins))),
            "function": self.function_id,
        }
        return facts("SmoothedFeatures", rows)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(value.nbytes for name in _ARRAYS if (value := getattr(self, name)) is not None)

    def __iter__(self) -> Iterator[SmoothedFeatures]:
        return (self[i] for i in range(len(self)))

    def __getitem__(
        self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray
    ) -> SmoothedFeatures:
        """Return the features of some images, as a batch; errors as `fsfast.runtime.selecting.selected`."""
        some = selected(index, len(self))
        places = range(len(self))[some] if isinstance(some, slice) else some
        parts: dict[str, Any] = {
            name: None if (whole := getattr(self, name)) is None else whole[some] for name in _ARRAYS
        }
        for name in _TUPLES:
            # Not everybody has names, sources and a policy.
            parts[name] = tuple(whole[i] for i in places) if (whole := getattr(self, name)) else ()
        return replace(self, **parts)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Return `features`; dtype and copy as NumPy 2 asks, which refuses to convert where copy=False."""
        if copy is False and dtype is not None and np.dtype(dtype) != self.features.dtype:
            raise ValueError(f"wanted {np.dtype(dtype)} without a copy, features are {self.features.dtype}")
        return np.array(self.features, dtype) if copy else np.asarray(self.features, dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors or .npz file, whole or not at all; `load_features` reads it back.

        Raises:
            ValueError: the name ends otherwise.
        """
        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        record = {k: v for k, v in vars(self).items() if k not in _ARRAYS and v != ()}
        metadata = {"format": "fsfast-features", "schema": "1", "record": json.dumps(record)}
        suffix = Path(path).suffix
        if suffix == ".safetensors":
            from safetensors.numpy import save_file

            with replacing(path) as temporary:
                save_file(arrays, temporary, metadata)
        elif suffix == ".npz":
            import io

            buffer = io.BytesIO()
            np.savez(buffer, **arrays, metadata=np.array(json.dumps(metadata)))
            write_whole(path, buffer.getvalue())
        else:
            raise ValueError(f"wanted a name ending in .safetensors or .npz, got {os.fspath(path)!r}")


def load_features(path: str | os.PathLike[str]) -> SmoothedFeatures:
    """Read what `SmoothedFeatures.save` wrote.

    Raises:
        FsfastError: the file is missing or holds something else.
    """
    with _translated(path):
        arrays, metadata = _read(Path(path))
        fields: dict[str, Any] = {**arrays, **_record(metadata)}
        for name in _TUPLES:
            fields[name] = tuple(fields.get(name, ()))
        features = SmoothedFeatures(**fields)
        check_shapes(features)
        return features


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return what a .safetensors file of features says about them, and the shapes of its arrays, without reading them.

    Raises:
        FsfastError: the file is missing or holds something else.
    """
    from safetensors import safe_open

    with _translated(path), safe_open(path, "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        return _record(file.metadata() or {}), shapes


@contextmanager
def _translated(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever readers of two file formats raise into an FsfastError."""
    try:
        yield
    except FileNotFoundError:
        raise FsfastError(f"wanted a file of smoothed features, {os.fspath(path)} does not exist") from None
    except Exception as error:  # two file formats, each with errors of its own
        kind = recognise_file(path)
        why = f": {brief(error)}" if kind is None or kind is FEATURES else f" but {kind.what}"
        raise FsfastError(f"{os.fspath(path)} is not a file of smoothed features{why}") from None


def _record(metadata: dict[str, Any]) -> dict[str, Any]:
    if metadata.get("format") != "fsfast-features" or metadata.get("schema") != "1":
        raise ValueError("it was not written by SmoothedFeatures.save of this version")
    record: dict[str, Any] = json.loads(metadata["record"])
    return record


def check_shapes(features: SmoothedFeatures) -> None:
    """Refuse arrays that do not fit each other; raises ValueError."""
    shape, images = features.features.shape, len(features.seeds)
    if len(shape) not in (2, 3) or shape[0] != images or features.seeds.ndim != 1:
        raise ValueError(f"features {list(shape)} do not fit seeds {list(features.seeds.shape)}")
    for name, dtype in (
        ("features", np.float32),
        ("unit", np.float32),
        ("raw_mean", np.float32),
        ("seeds", np.uint64),
    ):
        array = getattr(features, name)
        if array is None:
            continue
        if array.dtype != dtype:
            raise ValueError(f"{name} are {array.dtype}, wanted {np.dtype(dtype)}")
        if name != "seeds" and array.shape != shape:
            raise ValueError(f"{name} {list(array.shape)} do not fit features {list(shape)}")
    for name in _TUPLES:
        many = len(getattr(features, name))
        if many != images and (many or name in ("seed_origins", "grid_sha256")):
            raise ValueError(f"{many} {name} do not fit {images} images")


def joined(parts: Sequence[SmoothedFeatures]) -> SmoothedFeatures:
    """Return the features of several batches as one; they are of one function, n0 and kind."""
    whole: dict[str, Any] = {}
    for name in _ARRAYS:
        arrays = [getattr(part, name) for part in parts]
        whole[name] = None if arrays[0] is None else np.concatenate(arrays)
    for name in _TUPLES:
        whole[name] = tuple(chain.from_iterable(getattr(part, name) for part in parts))
    return replace(parts[0], **whole)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "metadata"}
            return arrays, json.loads(str(archive["metadata"]))
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def directions(unit_sums: np.ndarray) -> np.ndarray:
    """Return the direction of each token, float32: [..., D] sums of unit tokens divided by their norms."""
    return _normalised(unit_sums).astype(np.float32)


def anchor_of(unit: np.ndarray) -> np.ndarray:
    """Return [..., L, D] float64 unit directions, exactly those of `unit` float32 as it was handed out."""
    return _normalised(unit.astype(np.float64))


def _normalised(tokens: np.ndarray) -> np.ndarray:
    """Divide [..., D] float64 tokens by their norms; a zero token stays zero."""
    norm = np.linalg.norm(tokens, axis=-1, keepdims=True)
    return np.divide(tokens, norm, out=np.zeros_like(tokens), where=norm > 0)


def served_features(sums: FeatureSums, unit: np.ndarray) -> np.ndarray:
    """Return [B, L, D] float32: mean raw norm of each token times its direction."""
    mean_norm = sums.norm / sums.count[:, None]
    return (unit * mean_norm[:, :, None]).astype(np.float32)
