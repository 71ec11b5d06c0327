"""Photographic grounds: crops of pictures that scikit-image and scikit-learn bring along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "test"]

# The two regions of a picture, as shares of its longer side; nothing between them is ever used.
_REGIONS: dict[Split, tuple[float, float]] = {"train": (0.0, 0.62), "test": (0.66, 1.0)}
_LARGEST_CROP = 160


@dataclass(frozen=True)
class Source:
    """One picture.

    Attributes:
        name: its name in the package.
        package: "skimage" or "sklearn".
        kind: what it shows.
        licence: as its package states it.
    """

    name: str
    package: Literal["skimage", "sklearn"]
    kind: Literal["natural", "medical", "graphics"]
    licence: str

    def load(self) -> NDArray[np.uint8]:
        """Return the picture, [H, W, 3] uint8; grey and binary ones are repeated over the channels."""
        pixels = np.asarray(_loader(self)())
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * 255
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return np.ascontiguousarray(pixels[:, :, :3], dtype=np.uint8)


# Pictures with human faces (astronaut, camera, coins, lfw_subset) are left out, and so are those
# whose licence their package does not state.
SOURCES = (
    Source("brick", "skimage", "natural", "CC0-1.0"),
    Source("grass", "skimage", "natural", "CC0-1.0"),
    Source("gravel", "skimage", "natural", "CC0-1.0"),
    Source("chelsea", "skimage", "natural", "CC0-1.0 (Stéfan van der Walt)"),
    Source("coffee", "skimage", "natural", "CC0-1.0 (Rachel Michetti)"),
    Source("clock", "skimage", "natural", "public domain (Stéfan van der Walt)"),
    Source("rocket", "skimage", "natural", "public domain (SpaceX)"),
    Source("hubble_deep_field", "skimage", "natural", "public domain (NASA)"),
    Source(
        "flower.jpg", "sklearn", "natural", "CC-BY-2.0 (vultilion, flickr.com/photos/vultilion/6056698931)"
    ),
    Source(
        "china.jpg",
        "sklearn",
        "natural",
        "CC-BY-2.0 (danielbuechele, flickr.com/photos/danielbuechele/6061409035)",
    ),
    Source("cell", "skimage", "medical", "CC0-1.0 (Paul Müller)"),
    Source("immunohistochemistry", "skimage", "medical", "no known copyright restrictions (CMMI)"),
    Source("retina", "skimage", "medical", "CC0-1.0 (Mikael Häggström)"),
    Source("text", "skimage", "graphics", "public domain (Wikipedia, Corner.png)"),
    Source("horse", "skimage", "graphics", "CC0-1.0 (Andreas Preuss)"),
)


def region(picture: NDArray[np.uint8], split: Split) -> NDArray[np.uint8]:
    """Return the part of a picture that belongs to a split: a view, [H', W', 3]."""
    axis = int(picture.shape[1] >= picture.shape[0])
    first, last = (round(share * picture.shape[axis]) for share in _REGIONS[split])
    return picture[:, first:last] if axis else picture[first:last]


def cut(split: Split, per_source: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Cut random squares from every picture's region.

    Args:
        split: which region.
        per_source: squares from each picture.
        size: side of a square after resizing, in pixels; squares of up to 160 pixels are reduced to it.
        seed: of the places and sizes.

    Returns:
        [len(SOURCES)·per_source, 3, size, size] uint8.

    Raises:
        BackendUnavailable: scikit-image or scikit-learn is missing.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(split), 1])
    tiles = np.empty((len(SOURCES) * per_source, 3, size, size), np.uint8)
    for index, source in enumerate(SOURCES):
        part = region(source.load(), split)
        for row in range(index * per_source, (index + 1) * per_source):
            side = int(rng.integers(size, min(_LARGEST_CROP, *part.shape[:2]) + 1))
            top, left = (int(rng.integers(0, length - side + 1)) for length in part.shape[:2])
            square = Image.fromarray(part[top : top + side, left : left + side])
            resized = square.resize((size, size), Image.Resampling.BICUBIC)
            tiles[row] = np.asarray(resized).transpose(2, 0, 1)
    return tiles


def sources_record() -> list[dict[str, str]]:
    """Return name, kind, licence and the pixels' sha256 of every picture, for results and model cards."""
    return [
        {
            "name": f"{source.package}:{source.name}",
            "kind": source.kind,
            "licence": source.licence,
            "sha256": hashlib.sha256(source.load().tobytes()).hexdigest(),
        }
        for source in SOURCES
    ]


def _loader(source: Source) -> Callable[[], Any]:
    try:
        if source.package == "sklearn":
            from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]

            return lambda: load_sample_image(source.name)
        import skimage.data
    except ImportError as error:
        from fsfast.errors import BackendUnavailable
        from fsfast.installation import pip_install_extras

        raise BackendUnavailable(
            f"the study data need scikit-image and scikit-learn ({error}); install them with: "
            f"{pip_install_extras('train')}"
        ) from error
    return getattr(skimage.data, source.name)
