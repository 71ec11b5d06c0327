"""LLaVA's projector in NumPy: vision features become what its language model reads, on machines without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from scipy.special import erf

from fsfast.integrations.projector_files import Layer, read_layers


@dataclass(frozen=True, eq=False)
class Projector:
    """Linear layers with an exact GELU between them.

    Attributes:
        layers: weight [out, in] and bias [out] of each, float32.
    """

    layers: tuple[Layer, ...]

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> Projector:
        """Read the projector of a LLaVA, and no other file than that which holds it.

        Args:
            path: directory of a checkpoint as transformers or LLaVA's own repository has it, its index of shards, or a
                safetensors file; float16, bfloat16 or float32.

        Raises:
            CheckpointError: no safetensors there, no projector in them, one of another kind, or damaged values.
        """
        return cls(read_layers(path))

    @property
    def dim(self) -> int:
        """D, the width of the features that it takes."""
        return int(self.layers[0][0].shape[1])

    @property
    def hidden(self) -> int:
        """The width of the language model."""
        return int(self.layers[-1][0].shape[0])

    @cached_property
    def digest(self) -> str:
        """The sha256 of all its numbers, hex."""
        digest = sha256()
        for array in (array for layer in self.layers for array in layer):
            digest.update(f"{array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return [..., hidden] float32 of [..., D] features.

        It differs from transformers by less than 2e-6 of the largest number (tested).

        Raises:
            ValueError: features of another width.
        """
        x = np.asarray(features, np.float32)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(
                f"wanted features [..., {self.dim}], which this projector takes, got {list(x.shape)}; take an engine "
                "of the vision tower of the same LLaVA"
            )
        for place, (weight, bias) in enumerate(self.layers):
            x = (x if place == 0 else _gelu(x)) @ weight.T + bias
        return x


def _gelu(x: np.ndarray) -> np.ndarray:
    half = np.float32(0.5)
    return x * half * (np.float32(1) + erf(x * np.sqrt(half)))
