"""The weights of a graph as arrays over the bytes of the file that its external data points into."""

from __future__ import annotations

from math import prod

import numpy as np

from fsfast.engine.onnx_bytes import ExternalTensor, external_tensors


def stored_arrays(graph: bytes, weights: bytes | bytearray | np.ndarray) -> dict[str, np.ndarray]:
    """Return the initialisers of a graph that lie in the weights, by name; nothing is copied."""
    return {tensor.name: array_of(tensor, weights) for tensor in external_tensors(graph)}


def array_of(tensor: ExternalTensor, weights: bytes | bytearray | np.ndarray) -> np.ndarray:
    """Return the values of one initialiser; raises ValueError for a type that NumPy lacks."""
    if tensor.dtype == "bfloat16":
        raise ValueError(f"initialiser {tensor.name!r} is stored in bfloat16, which engines do not have")
    values = np.frombuffer(weights, tensor.dtype, prod(tensor.shape), tensor.offset)
    return values.reshape(tensor.shape)
