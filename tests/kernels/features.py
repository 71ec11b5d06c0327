"""Features, rows and anchors for the tests of cosine_mean, in C++ and in Triton."""

from __future__ import annotations

import numpy as np

from fsfast.kernels import Rows
from fsfast.kernels.casts import from_float32


def make_features(m, tokens, dim, dtype="float32", seed=0):
    values = np.random.default_rng(seed).standard_normal((m, tokens, dim), dtype=np.float32)
    return from_float32(values, dtype)


def make_rows(image) -> Rows:
    image = np.array(image, np.int32)
    return Rows(image, np.zeros(len(image), np.uint64), np.arange(len(image), dtype=np.uint32))


def make_anchor(images, tokens, dim, seed=1):
    anchor = np.random.default_rng(seed).standard_normal((images, tokens, dim))
    return anchor / np.linalg.norm(anchor, axis=-1, keepdims=True)
