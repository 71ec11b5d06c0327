"""Certify images: pilot and certification samples, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import PIL

from fsfast._version import __version__
from fsfast.bounds import MeanMethod
from fsfast.bounds.cosine import cosine_lower_bound
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.evidence import PILOT, Budget, choose_thresholds, constants
from fsfast.certificates.reach import MAX_SCORES, Reach
from fsfast.certificates.statement import Anchor, Stopping, round_scores
from fsfast.images.grid import GridImage
from fsfast.kernels.types import FeatureSums
from fsfast.runtime.features import anchor_of
from fsfast.runtime.function import Function
from fsfast.runtime.pipeline import Advance
from fsfast.runtime.sampling import Stream, check_samples
from fsfast.runtime.seeds import SeedOrigin

# A sequential certification looks at 32 samples first, and then at a tenth more each time; it does not give up
# before 100.
FIRST_LOOK, LOOK_RATIO, HOPE = 32, 1.1, 100


@dataclass(frozen=True)
class Plan:
    """What is asked of a certification.

    Attributes:
        n: samples; at most so many where there is a target.
        alpha: probability of error.
        method: confidence bound of the mean.
        per_token: also score every token on its own.
        target: (ε, cosine): stop as soon as this is certified or out of reach; None: n samples in any case.
    """

    n: int
    alpha: float
    method: MeanMethod = "mixture"
    per_token: bool = False
    target: tuple[float, float] | None = None

    def shortfall(self, sigma: float, total_variation: float) -> str | None:
        """Return a sentence where no scores could certify anything, or the target; None where some could."""
        alpha = 0.5 * self.alpha if self.per_token else self.alpha
        reach = Reach(self.n, alpha, self.target is not None, sigma, total_variation)
        return reach.shortfall(*(self.target or (0.0,)))


def plan_behind(certificate: Certificate) -> Plan:
    """Return the plan by which a certificate was made."""
    stopping = certificate.stopping
    return Plan(
        n=stopping.n_max if stopping else certificate.n,
        alpha=certificate.alpha,
        method=certificate.method,
        per_token=certificate.token_scores is not None,
        target=(stopping.epsilon, stopping.cosine) if stopping else None,
    )


def plan_of(
    n: int | None,
    alpha: float,
    method: MeanMethod,
    epsilon: float | None,
    cosine: float | None,
    n_max: int | None,
    per_token: bool,
) -> Plan:
    """Check what a user asked for; arguments as `SmoothedEncoder.certify`.

    Raises:
        ValueError: an argument is off, or two contradict each other.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0.0 < alpha < 1.0:
        raise ValueError(f"wanted alpha in (0, 1), the probability of a wrong certificate, got {alpha!r}")
    # A float of NumPy's is written otherwise, and seeds under a secret depend on how a plan is written.
    alpha = float(alpha)
    if method not in get_args(MeanMethod):
        raise ValueError(f"wanted method to be one of {', '.join(get_args(MeanMethod))}; got {method!r}")
    if epsilon is None:
        if cosine is not None or n_max is not None:
            raise ValueError(
                "wanted `epsilon` with `cosine` and `n_max`: the radius at which sampling may stop"
            )
        return Plan(check_samples(1000 if n is None else n, "n"), alpha, method, per_token)
    cosine = 0.5 if cosine is None else cosine
    if not 0.0 <= epsilon < math.inf or not 0.0 < cosine < 1.0:
        raise ValueError(f"wanted epsilon ≥ 0 and a cosine in (0, 1), got {epsilon} and {cosine}")
    if n is not None or per_token or method == "hoeffding":
        raise ValueError(
            "sampling that stops at `epsilon` takes n_max instead of n, and neither per_token nor the method "
            "hoeffding, whose n must be fixed beforehand"
        )
    most = check_samples(10_000 if n_max is None else n_max, "n_max")
    return Plan(most, alpha, method, target=(float(epsilon), float(cosine)))


@dataclass(frozen=True)
class Task:
    """One image to certify.

    Attributes:
        item: the image on the grid.
        unit: [L, D] float32, the anchor's directions; they must not depend on the certification noise.
        anchor: their description.
        seed, origin: certification noise and how it came about.
        key_id: of the secret that gave the seed, or None.
    """

    item: GridImage
    unit: np.ndarray
    anchor: Anchor
    seed: int
    origin: SeedOrigin
    key_id: str | None = None


@dataclass(frozen=True)
class Drawn:
    """What the certification noise of one image gave.

    Attributes:
        thresholds: from the pilot stream.
        scores: [n] rounded down.
        perp_norm, token_scores, stopping: see `Certificate`.
    """

    thresholds: tuple[float, ...]
    scores: np.ndarray
    perp_norm: float | None = None
    token_scores: np.ndarray | None = None
    stopping: Stopping | None = None


def certify(
    function: Function, tasks: list[Task], plan: Plan, advance: Advance | None = None
) -> list[Certificate]:
    """Draw scores of the certification stream and state what follows from them, per image.

    Raises:
        ValueError: more scores than a certificate holds.
    """
    scores = plan.n * (function.manifest.tokens if plan.per_token else 1)
    if scores > MAX_SCORES:
        raise ValueError(
            f"wanted at most {MAX_SCORES:,} scores per certificate, got {scores:,}; take fewer samples"
            f"{' or leave out per_token' if plan.per_token else ''}"
        )
    if plan.target is not None:
        drawn = _until_decided(function, tasks, plan, advance)
    else:
        drawn = [draw(function, task, plan.n, plan.per_token, advance) for task in tasks]
    return [_certificate(function, *pair, plan) for pair in zip(tasks, drawn, strict=True)]


def draw(
    function: Function, task: Task, n: int, per_token: bool = False, advance: Advance | None = None
) -> Drawn:
    """Draw the pilot samples and then a fixed number of scores."""
    manifest = function.manifest
    # C. Pilot
    thresholds = _thresholds(function, task)
    # D. Scores
    sums = FeatureSums.zeros(1, manifest.tokens, manifest.dim)
    scores = function.scores(
        [task.item], [task.seed], n, [task.unit], sums=sums, per_token=per_token, advance=advance
    )[0]
    across = length_across(sums.unit[0] / n, anchor_of(task.unit))
    tokens = round_scores(scores) if per_token else None
    # The mean of the tokens' rounded scores may not be a multiple of the unit: round again.
    return Drawn(thresholds, round_scores(scores.mean(1) if per_token else scores), across, tokens)


def _thresholds(function: Function, task: Task) -> tuple[float, ...]:
    pilot = function.scores([task.item], [task.seed], PILOT, [task.unit], stream=Stream.PILOT)[0]
    return choose_thresholds(round_scores(pilot))


def length_across(mean: np.ndarray, unit: np.ndarray) -> float:
    """Return the length of a mean unit feature's component orthogonal to the anchor.

    Args:
        mean: [L, D] float64, the mean of unit tokens; the feature is this over √L.
        unit: [L, D] float64, the anchor's unit tokens.
    """
    along = float((mean * unit).sum() / max(float((unit * unit).sum()), 1e-300))
    # Relative errors of the sums are below L·D·2⁻⁵³, 1e-9 for the largest features.
    return float(np.linalg.norm(mean - along * unit) / np.sqrt(len(unit)) * (1.0 + 1e-9))


def _certificate(function: Function, task: Task, drawn: Drawn, plan: Plan) -> Certificate:
    manifest, item = function.manifest, task.item
    return Certificate(
        engine=manifest.name,
        engine_digest=function.engine_digest,
        random_weights=manifest.random_weights,
        function_id=function.function_id,
        profile=function.profile,
        image_name=item.name,
        grid_sha256=item.grid_sha256,
        source=item.source,
        grid=manifest.grid.size,
        sigma=manifest.sigma,
        total_variation=function.total_variation,
        anchor=task.anchor,
        alpha=float(plan.alpha),
        method=plan.method,
        seed=task.seed,
        seed_origin=task.origin,
        key_id=task.key_id,
        scores=drawn.scores,
        thresholds=drawn.thresholds,
        perp_norm=drawn.perp_norm,
        stopping=drawn.stopping,
        token_scores=drawn.token_scores,
        direction=task.unit,
        versions={"fsfast": __version__, "numpy": np.__version__, "pillow": PIL.__version__},
    )


def _until_decided(function: Function, tasks: list[Task], plan: Plan, advance: Advance | None) -> list[Drawn]:
    """Sample in rounds; an image leaves when its target is certified or out of reach."""
    assert plan.target is not None
    epsilon, cosine = plan.target
    # C. Pilot
    thresholds = [_thresholds(function, task) for task in tasks]
    scores: list[np.ndarray] = [np.empty(0)] * len(tasks)
    reasons: dict[int, str] = {}
    done = 0
    for look in looks(plan.n):
        open_ = [i for i in range(len(tasks)) if i not in reasons]
        if not open_:
            break
        # D. Scores
        chosen = [tasks[i] for i in open_]
        chunk = function.scores(
            [task.item for task in chosen],
            [task.seed for task in chosen],
            look - done,
            [task.unit for task in chosen],
            first_sample=done,
            advance=advance,
        )
        for i, values in zip(open_, chunk, strict=True):
            scores[i] = np.concatenate([scores[i], round_scores(values)])
            reason = decide(
                scores[i],
                thresholds[i],
                epsilon / function.manifest.sigma,
                cosine,
                plan,
                function.total_variation,
            )
            if reason is not None:
                reasons[i] = reason
        done = look
    return [
        Drawn(thresholds[i], scores[i], stopping=Stopping(epsilon, cosine, plan.n, reasons.get(i, "n_max")))
        for i in range(len(tasks))
    ]


def looks(n_max: int) -> Iterator[int]:
    """Yield the numbers of samples at which a sequential certification looks at what it has."""
    look = FIRST_LOOK
    while look < n_max:
        yield look
        look = max(look + 1, round(look * LOOK_RATIO))
    yield n_max


def decide(
    scores: np.ndarray,
    thresholds: tuple[float, ...],
    d: float,
    cosine: float,
    plan: Plan,
    total_variation: float,
) -> str | None:
    """Return "reached", "out of reach", or None to go on.

    Success is declared from bounds that hold at all numbers of samples at once. Giving up is always sound: it is
    done where even the samples' own mean and shares, three standard errors better, would not suffice, or no samples
    could.
    """
    budget = Budget.of(plan.alpha, len(thresholds), stopped=True)
    # E. Constants and F. Cosine
    known = constants(scores, thresholds, None, budget, total_variation, plan.method)
    bound = cosine_lower_bound(d, mean=known.mean, caps=known.caps)
    if bound is not None and bound >= cosine:
        return "reached"
    if len(scores) < HOPE:
        return None
    better = 3.0 / np.sqrt(len(scores))
    # No bound from n_max samples can be above these, whatever the samples are.
    highest, highest_share = (min(1.0, part ** (1.0 / plan.n)) for part in (budget.mean, budget.cap or 1.0))
    mean = min(highest, float(scores.mean() + better * scores.std()))
    shares = [float(np.mean(scores >= threshold)) for threshold in thresholds]
    caps = [
        (2.0 * t - 1.0, min(highest_share, p + better * np.sqrt(p * (1.0 - p)) + better**2))
        for t, p in zip(thresholds, shares, strict=True)
    ]
    hope = cosine_lower_bound(d, mean=mean, caps=caps)
    return None if hope is not None and hope >= cosine else "out of reach"
