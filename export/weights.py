"""One safetensors file holds the weights of all stages; the ONNX graphs point into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from .graph import ExportedGraph

_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "int8": "I8",
    "bool": "BOOL",
}
# As the safetensors library pads headers, so that every tensor is aligned.
_ALIGNMENT = 8
_PADDING = "padding"


class WeightsFile:
    """Writes the file stage by stage, so that only one stage's weights are in memory.

    Args:
        folder: for `data`, the tensors without the header.
    """

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.touch()
        self._header: dict[str, dict[str, object]] = {}
        self._size = 0

    def add(self, stage: str, weights: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Append a stage's tensors under "<stage>.<name>"; returns name → offset in the data.

        Raises:
            ValueError: a tensor is of a type that weights do not have.
        """
        offsets = {}
        # A stage of narrow types may end anywhere, and the format knows no holes: a tensor fills the gap.
        if gap := -self._size % max((value.itemsize for value in weights.values()), default=1):
            weights = {**weights, _PADDING: np.zeros(gap, np.uint8)}
        with open(self.data, "ab") as handle:
            for name in _aligned(weights):
                value = np.ascontiguousarray(weights[name]).reshape(weights[name].shape)
                if value.dtype.name not in _DTYPES or self._size % value.itemsize:
                    raise ValueError(f"{stage}.{name}: cannot store {value.dtype} at byte {self._size}")
                offsets[name] = self._size
                self._header[f"{stage}.{name}"] = {
                    "dtype": _DTYPES[value.dtype.name],
                    "shape": list(value.shape),
                    "data_offsets": [self._size, self._size + value.nbytes],
                }
                handle.write(memoryview(value.reshape(-1)).cast("B"))
                self._size += value.nbytes
        return offsets

    def finish(self, path: Path) -> int:
        """Write the safetensors file, remove the data, and return where the tensors begin in the file."""
        header = json.dumps(
            {"__metadata__": {"format": "fsfast-weights"}, **self._header}, separators=(",", ":")
        ).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        with open(path, "wb") as target, open(self.data, "rb") as data:
            target.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(data, target, 1 << 24)
        self.data.unlink()
        return 8 + len(header)


def _aligned(weights: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names in an order that aligns all tensors: padding, then wide types first."""
    return sorted(weights, key=lambda name: (name != _PADDING, -weights[name].itemsize, name))


def in_memory(graph: ExportedGraph) -> tuple[bytes, bytearray]:
    """Return the serialised graph and the content of a file that its external data could point into."""
    offsets, content = {}, bytearray()
    for name in _aligned(graph.weights):
        offsets[name] = len(content)
        content += np.ascontiguousarray(graph.weights[name]).tobytes()
    return point_into(graph, offsets, 0, "weights"), content


def point_into(graph: ExportedGraph, offsets: Mapping[str, int], begin: int, file: str) -> bytes:
    """Return the serialised graph with its external data pointing into a file of weights.

    Args:
        graph: the stage.
        offsets: name of a weight → offset.
        begin: where offset 0 is in the file.
        file: its name.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.name not in graph.source:
            continue
        (length,) = (int(entry.value) for entry in tensor.external_data if entry.key == "length")
        del tensor.external_data[:]
        place = {"location": file, "offset": begin + offsets[graph.source[tensor.name]], "length": length}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString(deterministic=True)
