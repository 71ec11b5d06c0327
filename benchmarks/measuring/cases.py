"""What the kernels are measured on: σ, CLIP's normalisation, rows."""

from __future__ import annotations

import numpy as np

from fsfast.kernels import Rows

SIGMA = 0.25
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def make_rows(samples: int, images: int) -> Rows:
    """Return `samples` rows over `images` images, an equal number each."""
    image = np.repeat(np.arange(images, dtype=np.int32), samples // images)
    return Rows(image, image.astype(np.uint64), np.arange(samples, dtype=np.uint32))
