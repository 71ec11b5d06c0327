"""Certify one image, and replay what was certified."""

from __future__ import annotations

import numpy as np

from fsfast._version import __version__
from fsfast.bounds import MeanMethod
from fsfast.features import SmoothedFeatures, directions
from fsfast.function import Advance, Function, stack
from fsfast.images import GridImage
from fsfast.record import Anchor, Certificate, Verification, anchor_hash, round_scores
from fsfast.sampling import SeedOrigin

# Scores of one precision agree to about 1e-6 across back ends and processors.
ROUNDING_DEVIATION = 1e-3


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


def certify_image(
    function: Function,
    item: GridImage,
    anchor: tuple[np.ndarray, Anchor],
    n: int,
    alpha: float,
    method: MeanMethod,
    seed: int,
    origin: SeedOrigin,
    advance: Advance | None = None,
) -> Certificate:
    """Draw n scores of the certification stream and state what follows from them.

    Args:
        function: the fixed function.
        item: the image on the grid.
        anchor: directions [L, D] and their description; must not depend on the certification noise.
        n, alpha, method: samples, error probability, confidence bound of the mean.
        seed, origin: certification noise and how it came about.
        advance: called with the number of samples done.
    """
    unit, about = anchor
    manifest = function.manifest
    return Certificate(
        engine=manifest.name,
        engine_digest=function.engine_digest,
        random_weights=manifest.random_weights,
        function_id=function.function_id,
        profile=function.profile,
        image_name=item.name,
        grid_sha256=item.grid_sha256,
        source=item.source,
        grid=(manifest.grid.height, manifest.grid.width),
        sigma=manifest.sigma,
        total_variation=function.total_variation,
        anchor=about,
        alpha=float(alpha),
        method=method,
        seed=seed,
        seed_origin=origin,
        scores=round_scores(function.scores(item, seed, n, unit, advance)),
        versions={"fsfast": __version__, "numpy": np.__version__},
    )


def replay(function: Function, certificate: Certificate, item: GridImage) -> Verification:
    """Compute a certificate's anchor and scores again and compare; the engine is known to be the same one."""
    about = certificate.anchor
    if item.grid_sha256 != certificate.grid_sha256:
        return Verification("different", ("the image: its pixels on the grid are not the certified ones",))
    if details := _other_constants(function, certificate):
        return Verification("different", tuple(details))
    if about.kind == "clean":
        unit, anchor = clean_anchor(function, item)
    else:
        unit, anchor = served_anchor(
            function, item, about.n0 or 1, about.seed or 0, about.seed_origin or "replay"
        )
    scores = round_scores(function.scores(item, certificate.seed, certificate.n, unit))
    deviation = float(np.abs(scores - certificate.scores).max())
    wrong = int(np.count_nonzero(scores != certificate.scores))
    if certificate.function_id != function.function_id:
        return _compared_elsewhere(function, certificate, deviation)
    if anchor.sha256 != about.sha256:
        details.append("the anchor: its directions do not come from the stated seed")
    if wrong:
        details.append(f"the scores: {wrong} of {certificate.n} do not come from the stated seed")
    return Verification("different" if details else "same", tuple(details), deviation)


def _compared_elsewhere(function: Function, certificate: Certificate, deviation: float) -> Verification:
    """Judge a certificate of another execution profile by how far its scores are from ours."""
    here, there = vars(function.profile), vars(certificate.profile)
    details = [f"{key}: {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
    same_kind = here["precision"] == there["precision"] and here["stages"] == there["stages"]
    if same_kind and deviation > ROUNDING_DEVIATION:
        details.append(f"the scores: they deviate by {deviation:.1e}, more than rounding explains")
        return Verification("different", tuple(details), deviation)
    return Verification("cannot be checked bit for bit here", tuple(details), deviation)


def _other_constants(function: Function, certificate: Certificate) -> list[str]:
    """Return which constants of a certificate are not those of the function."""
    manifest = function.manifest
    pairs = {
        "sigma": (certificate.sigma, manifest.sigma),
        "the noise's total variation": (certificate.total_variation, function.total_variation),
        "the engine's name": (certificate.engine, manifest.name),
        "random weights": (certificate.random_weights, manifest.random_weights),
        "the grid": (certificate.grid, (manifest.grid.height, manifest.grid.width)),
    }
    return [
        f"{what}: {stated} stated, {found} found"
        for what, (stated, found) in pairs.items()
        if stated != found
    ]
