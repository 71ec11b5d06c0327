"""Anchors: the fixed directions that certificates are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np

from fsfast.certificates.statement import Anchor, anchor_hash
from fsfast.errors import CertificateError
from fsfast.images.grid import GridImage
from fsfast.runtime.features import SmoothedFeatures, directions
from fsfast.runtime.function import Function, stack
from fsfast.runtime.seeds import SeedOrigin

AnchorKind = Literal["served", "clean"]


def anchors(
    function: Function,
    items: Sequence[GridImage],
    seeds: Sequence[tuple[int, SeedOrigin]],
    kind: str,
    n0: int | None,
    served: SmoothedFeatures | None,
) -> Iterator[tuple[np.ndarray, Anchor]]:
    """Yield every image's directions and their description; arguments as `SmoothedEncoder.certify`.

    Raises:
        CertificateError: `served` belongs to other images or another function.
        TypeError, ValueError: arguments are off, or contradict each other.
    """
    _check(function, items, kind, n0, served)
    n0 = function.manifest.n0 if n0 is None else n0
    for index, (item, (seed, origin)) in enumerate(zip(items, seeds, strict=True)):
        if kind == "clean":
            yield clean_anchor(function, item)
        elif served is not None:
            yield handed_out_anchor(function, served, index)
        else:
            yield served_anchor(function, item, n0, seed, origin)


def _check(
    function: Function,
    items: Sequence[GridImage],
    kind: str,
    n0: int | None,
    served: SmoothedFeatures | None,
) -> None:
    if kind not in get_args(AnchorKind):
        raise ValueError(f"wanted anchor to be one of {', '.join(get_args(AnchorKind))}; got {kind!r}")
    if served is None:
        return
    if not isinstance(served, SmoothedFeatures):
        raise TypeError(f"wanted `served` as `encode` returned it, got {type(served).__name__}")
    if kind != "served" or n0 not in (None, served.n0):
        raise ValueError("`served` gives the anchor and its n0; leave out anchor and n0")
    if served.function_id != function.function_id:
        raise CertificateError(
            "`served` was made by another engine or execution profile; certify it with the encoder that served it"
        )
    if served.grid_sha256 != tuple(item.grid_sha256 for item in items):
        raise CertificateError("`served` belongs to other images (or another order) than those given")


def served_anchor(
    function: Function, item: GridImage, n0: int, seed: int, origin: SeedOrigin
) -> tuple[np.ndarray, Anchor]:
    """Return the directions [L, D] float32 of n0 serving samples, and their description."""
    unit = function.serve([item], [seed], n0).unit[0]
    return unit, Anchor("served", anchor_hash(unit), n0, seed, origin)


def handed_out_anchor(function: Function, served: SmoothedFeatures, index: int) -> tuple[np.ndarray, Anchor]:
    """Return the directions that `encode` handed out for one of its images."""
    manifest = function.manifest
    unit = served.unit[index].reshape(manifest.tokens, manifest.dim)
    seed, origin = int(served.seeds[index]), served.seed_origins[index]
    return unit, Anchor("served", anchor_hash(unit), served.n0, seed, origin)


def clean_anchor(function: Function, item: GridImage) -> tuple[np.ndarray, Anchor]:
    """Return the directions of the vanilla encoder on the clean image: the paper's statement."""
    unit = directions(function.pipeline.clean(stack([item])).astype(np.float64))[0]
    return unit, Anchor("clean", anchor_hash(unit))
