"""What `fsfast encode` wrote, found by the pixels of the images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsfast.runtime.features import SmoothedFeatures


def load_served(path: str) -> Mapping[str, SmoothedFeatures]:
    """Return the features of each image in a file or a folder, by the hash of its pixels on the grid.

    Raises:
        FsfastError: it is missing or holds something else.
        ValueError: one image has two directions there, so that it is not clear which to certify.
    """
    from fsfast.runtime.feature_folder import FeatureFolder
    from fsfast.runtime.features import load_features

    if os.path.isdir(path):
        return FeatureFolder(path).by_pixels
    features = load_features(path)
    found: dict[str, SmoothedFeatures] = {}
    for i, key in enumerate(features.grid_sha256):
        if key in found and (found[key].unit != features[i].unit).any():
            raise ValueError(f"{path} has two directions of one image (the second is number {i + 1})")
        found[key] = features[i]
    return found
