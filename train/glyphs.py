"""What is drawn: handwritten digits, and one mark that only ever serves as the target of attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from train.tiles import Split

DIGITS = 10
# The eleventh class: a star. The paper's counterpart is its "shark".
TARGET = 10
CLASSES = 11
# Side of a glyph's mask, in pixels: the digits' 8×8 cells magnified, with one cell of margin.
MASK = 40
_TEST_DIGITS = 397
_STARS: dict[Split, int] = {"train": 256, "test": 64}


@dataclass(frozen=True)
class Glyphs:
    """Masks with their classes.

    Attributes:
        masks: [N, 40, 40] float32 in [0, 1]: how much of a pixel is covered.
        labels: [N] int64, 0…9 for digits, 10 for stars.
        identity: [N] int64, the index in scikit-learn's digits; −1 for stars.
    """

    masks: NDArray[np.float32]
    labels: NDArray[np.int64]
    identity: NDArray[np.int64]


def load_glyphs(split: Split, seed: int) -> Glyphs:
    """Return the glyphs of a split; those of the two splits are disjoint for every seed.

    Args:
        split: 1400 digits for training and 397 for tests, drawn without replacement from 1797.
        seed: of the split and of the stars' shapes.

    Raises:
        BackendUnavailable: scikit-learn is missing.
    """
    digits = _digits()
    order = np.random.default_rng([seed, 2]).permutation(len(digits.target))
    chosen = np.sort(order[:-_TEST_DIGITS] if split == "train" else order[-_TEST_DIGITS:])
    stars = _stars(_STARS[split], np.random.default_rng([seed, ("train", "test").index(split), 3]))
    masks = np.concatenate([_magnified(digits.images[chosen]), stars])
    labels = np.concatenate([digits.target[chosen], np.full(len(stars), TARGET)]).astype(np.int64)
    return Glyphs(masks, labels, np.concatenate([chosen, np.full(len(stars), -1)]))


def _digits() -> Any:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        from fsfast.errors import BackendUnavailable
        from fsfast.installation import pip_install_extras

        raise BackendUnavailable(
            f"the study data need scikit-learn ({error}); install it with: {pip_install_extras('train')}"
        ) from error
    return load_digits()


def _magnified(cells: NDArray[np.float64]) -> NDArray[np.float32]:
    """[N, 8, 8] in 0…16 → [N, 40, 40] in [0, 1], with edges sharpened to about two pixels."""
    padded = np.pad(cells / 16.0, ((0, 0), (1, 1), (1, 1)))
    smooth = ndimage.zoom(padded, (1, MASK / 10, MASK / 10), order=3, grid_mode=True, mode="nearest")
    return np.clip((smooth - 0.3) / 0.3, 0.0, 1.0).astype(np.float32)


def _stars(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Five-pointed stars with random proportions, [count, 40, 40] in [0, 1]."""
    y, x = (np.mgrid[:MASK, :MASK] + 0.5) / MASK * 2.0 - 1.0
    angle = np.arctan2(x, -y)
    radius = np.hypot(x, y)
    outer = rng.uniform(0.78, 0.9, count)[:, None, None]
    inner = outer * rng.uniform(0.36, 0.5, count)[:, None, None]
    # Between a tip (share 0) and a dent (share 1) the edge is a straight line; this is its polar equation.
    share = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1.0 - 0.5) * (2 * np.pi / 5)
    half = np.pi / 5
    edge = outer * inner * np.sin(half) / (inner * np.sin(half - share) + outer * np.sin(share))
    return np.clip((edge - radius) * MASK / 4.0 + 0.5, 0.0, 1.0).astype(np.float32)
