"""Replay a certificate: draw its noise again, and compare every bit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL

from fsfast.bounds import mean_lower_bound, proportion_lower_bound
from fsfast.budgets import Budget
from fsfast.certificates.anchors import clean_anchor, served_anchor
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.certification import (
    Drawn,
    Task,
    certify,
    decide,
    draw,
    looks,
    plan_behind,
)
from fsfast.certificates.evidence import PILOT
from fsfast.certificates.statement import Stopping
from fsfast.certificates.wording import round_down, round_up
from fsfast.errors import CertificateError
from fsfast.images.grid import GridImage
from fsfast.runtime.function import Function
from fsfast.runtime.pipeline import Advance
from fsfast.runtime.seeds import Seeds

# A replay may take so many: an hour or so with a network of the size of ViT-B/16.
SAMPLES = Budget("FSFAST_MAX_REPLAY_SAMPLES", 100_000, "samples")
# Scores of one precision agree to about 1e-6 across back ends and processors.
ROUNDING_DEVIATION = 1e-3


@dataclass(frozen=True)
class Verification:
    """What a replay found.

    Attributes:
        verdict: "same", "different", or "cannot be checked bit for bit here".
        details: what differs, or why bits cannot be compared; empty for "same".
        deviation: largest difference between a stored and a replayed score, or None if there was no replay.
        notes: what is worth knowing and changes nothing: another file that gives the same pixels on the grid.
    """

    verdict: str
    details: tuple[str, ...] = ()
    deviation: float | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.verdict == "same"


def replay(function: Function, certificate: Certificate, item: GridImage, source: Seeds) -> Verification:
    """Compute a certificate's anchor, thresholds and scores again and compare; the engine is known to be the same.

    Where the certificate names the secret of `source`, its seeds are derived again, too.
    """
    if item.grid_sha256 != certificate.grid_sha256:
        return Verification("different", (_other_pixels(certificate, item),))
    if details := _other_constants(function, certificate) + _other_seeds(source, certificate, item):
        return Verification("different", tuple(details))
    notes = _other_file(certificate, item)
    _check_work(certificate)
    # H. Replay
    task = _task(function, certificate, item)
    drawn = draw(function, task, certificate.n, certificate.token_scores is not None)
    deviation = _deviation(drawn, certificate)
    if certificate.function_id != function.function_id:
        return replace(_compared_elsewhere(function, certificate, deviation), notes=notes)
    if task.anchor.sha256 != certificate.anchor.sha256:
        details.append("the anchor: its directions do not come from the stated seed")
    details += _differences(drawn, certificate)
    if not details and certificate.stopping is not None:
        details += _other_stop(certificate, certificate.stopping)
    return Verification("different" if details else "same", tuple(details), deviation, notes)


def _check_work(certificate: Certificate) -> None:
    """Refuse a certificate whose replay would take days: its file may be small.

    Raises:
        CertificateError: it names the budget.
    """
    # A certification anew may go on to the most that was planned.
    samples = PILOT + max(certificate.n, plan_behind(certificate).n) + (certificate.anchor.n0 or 1)
    try:
        SAMPLES.check(samples, "a replay of this certificate")
    except ValueError as error:
        raise CertificateError(str(error)) from None


def certify_anew(
    function: Function, certificate: Certificate, item: GridImage, seed: int, advance: Advance | None = None
) -> Certificate:
    """Certify the same direction again with noise that nobody could choose: what a replay cannot show."""
    _check_work(certificate)
    task = replace(_task(function, certificate, item), seed=seed, origin="os", key_id=None)
    return certify(function, [task], plan_behind(certificate), advance)[0]


def restore_direction(function: Function, certificate: Certificate, item: GridImage) -> Certificate:
    """Return the certificate with its direction, from the anchor's samples; bit for bit, or not at all.

    Raises:
        CertificateError: the function is another one, or the anchor does not come from its seed.
    """
    if certificate.function_id != function.function_id:
        raise CertificateError(
            "the certificate belongs to another execution profile; open the encoder with that one's options"
        )
    _check_work(certificate)
    task = _task(function, certificate, item)
    if task.anchor.sha256 != certificate.anchor.sha256:
        raise CertificateError(
            "the certificate's anchor does not come from its seed; replay it with `verify`"
        )
    return replace(certificate, direction=task.unit)


def contradictions(stated: Certificate, fresh: Certificate) -> list[str]:
    """Return what fresh samples refute, each with probability of error ≤ the certificate's alpha.

    Two honest certificates differ by chance. A stated mean or share is refuted where even the confidence bound of the
    fresh samples on the other side does not reach it. The length across and single tokens are not tested.
    """
    details = []
    most = 1.0 - float(mean_lower_bound(1.0 - fresh.scores, stated.alpha, "mixture"))
    if most < stated.constants.mean:
        said = round_down(stated.constants.mean, 4)
        details.append(f"mean score ≥ {said} stated, fresh samples say ≤ {round_up(most, 4)}")
    for tau, share in stated.constants.caps:
        missed = fresh.scores < (1.0 + tau) / 2.0
        if fresh.stopping is None:
            lower = proportion_lower_bound(int(missed.sum()), fresh.n, stated.alpha)
        else:
            # Where sampling could stop, only a bound that holds at all n at once is one.
            lower = mean_lower_bound(missed.astype(np.float64), stated.alpha, "mixture")
        most = 1.0 - float(lower)
        if most < share:
            details.append(
                f"share of inner products ≥ {round_down(tau, 4)}: at least {round_down(share, 4)} stated, "
                f"fresh samples say ≤ {round_up(most, 4)}"
            )
    return details


def _task(function: Function, certificate: Certificate, item: GridImage) -> Task:
    about = certificate.anchor
    if about.kind == "clean":
        unit, anchor = clean_anchor(function, item)
    else:
        origin = about.seed_origin or "replay"
        unit, anchor = served_anchor(function, item, about.n0 or 1, about.seed or 0, origin)
        anchor = replace(anchor, key_id=about.key_id)
    return Task(item, unit, anchor, certificate.seed, certificate.seed_origin, certificate.key_id)


def _other_seeds(source: Seeds, certificate: Certificate, item: GridImage) -> list[str]:
    """Return which seeds a certificate says to be of this secret, and are not."""
    anchor, ours = certificate.anchor, source.key_id
    wrong = []
    if ours and anchor.key_id == ours and source.serving_key_id(item, anchor.seed or 0) is None:
        wrong.append("the anchor's seed")
    if ours and certificate.key_id == ours:
        context = (certificate.function_id, anchor.sha256, plan_behind(certificate))
        if source.certification(item, *context)[0] != certificate.seed:
            wrong.append("the seed")
    return [f"{what}: the secret {ours}, which the certificate names, gives another" for what in wrong]


def _differences(drawn: Drawn, certificate: Certificate) -> list[str]:
    """Return what a certificate states and the noise does not give; `drawn` always has a length across."""
    details = []
    if drawn.thresholds != certificate.thresholds:
        details.append("the thresholds: they do not come from the pilot samples of the stated seed")
    if wrong := int(np.count_nonzero(drawn.scores != certificate.scores)):
        details.append(f"the scores: {wrong} of {certificate.n} do not come from the stated seed")
    stated, found = certificate.token_scores, drawn.token_scores
    if stated is not None and (found is None or not np.array_equal(found, stated)):
        details.append("the scores of the tokens: they do not come from the stated seed")
    if certificate.perp_norm is not None and drawn.perp_norm != certificate.perp_norm:
        details.append("perp_norm: it is not the length across the anchor that the samples give")
    return details


def _other_stop(certificate: Certificate, stated: Stopping) -> list[str]:
    """Return where the certificate's own scores would have stopped, if that is not where it says."""
    n, plan = certificate.n, plan_behind(certificate)
    for look in looks(stated.n_max):
        scores = certificate.scores[: min(look, n)]
        reason = decide(
            scores,
            certificate.thresholds,
            stated.epsilon / certificate.sigma,
            stated.cosine,
            plan,
            certificate.total_variation,
        )
        if look >= n or reason is not None:
            break
    if look == stated.n_max:
        reason = reason or "n_max"
    if (look, reason) == (n, stated.reason):
        return []
    asked = f"cosine {stated.cosine:g} at ε = {stated.epsilon:g} with at most {stated.n_max} samples"
    return [
        f"the stopping: for {asked} these scores end at {look} ({reason}), stated are {n} ({stated.reason})"
    ]


def _other_pixels(certificate: Certificate, item: GridImage) -> str:
    """Say that an image is not the certified one, and where only its decoder is another."""
    sha256 = item.source.get("sha256")
    if sha256 is None or certificate.source.get("sha256") != sha256:
        return "the image: its pixels on the grid are not the certified ones"
    there, here = certificate.versions.get("pillow", "of an unknown version"), PIL.__version__
    resized = ", which also resized it" if certificate.resize == 1 else ""
    return (
        f"the image: the file is the certified one, but Pillow {here} makes other pixels of it than Pillow {there} did"
        f"{resized}; verify with that version"
    )


def _other_file(certificate: Certificate, item: GridImage) -> tuple[str, ...]:
    """Return how the file differs from the one that the certificate names; the pixels on the grid are the same."""
    stated, found = certificate.source, item.source
    if stated == found:
        return ()
    names = sorted(key for key in stated.keys() | found.keys() if stated.get(key) != found.get(key))
    return (
        f"the certificate names another source of the same pixels on the grid: {', '.join(names)} differ",
    )


def _deviation(drawn: Drawn, certificate: Certificate) -> float:
    """Return the largest difference of a score, or of the length across."""
    found = [float(np.abs(drawn.scores - certificate.scores).max())]
    if drawn.token_scores is not None and certificate.token_scores is not None:
        if drawn.token_scores.shape != certificate.token_scores.shape:
            return float("inf")
        found.append(float(np.abs(drawn.token_scores - certificate.token_scores).max()))
    if drawn.perp_norm is not None and certificate.perp_norm is not None:
        found.append(abs(drawn.perp_norm - certificate.perp_norm))
    if len(drawn.thresholds) == len(certificate.thresholds):
        found += [abs(a - b) for a, b in zip(drawn.thresholds, certificate.thresholds, strict=True)]
    return max(found)


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
        "the grid": (certificate.grid, manifest.grid.size),
    }
    return [
        f"{what}: {stated} stated, {found} found"
        for what, (stated, found) in pairs.items()
        if stated != found
    ]
