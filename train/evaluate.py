"""The results table: accuracy, the paper's plug-in numbers, and attacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from train.attack import Attack, adaptive_score, in_parts, plain_score
from train.config import StudyConfig
from train.data import Batch
from train.defence import Defence, clean_unit, noisy_units, predict, smoothed
from train.glyphs import TARGET

RADII = (0.125, 0.25, 0.5)


@dataclass(frozen=True)
class Row:
    """One defence on the test images.

    Attributes:
        name: of the defence.
        accuracy: share of right answers from n0 noises.
        score: S, the mean over images and noises of (1 + Cos(f(x+N), f_e(x)))/2.
        score_served: the same with the served direction as anchor.
        radius: R = σ(Φ⁻¹(S) − Φ⁻¹(.75)) in [0,1] units, 0 if negative. A plug-in, not a certificate.
        fcsb: 2Φ(Φ⁻¹(S) − ε/σ) − 1 at RADII, None where not positive. A plug-in, not a certificate.
        attack_success: share of images that the attack on the plain encoder turns into the target class.
        attack_accuracy: share of right answers under that attack.
    """

    name: str
    accuracy: float
    score: float
    score_served: float
    radius: float
    fcsb: tuple[float | None, ...]
    attack_success: float
    attack_accuracy: float


def plug_in_radius(score: float, sigma: float) -> float:
    """Return R of Corollary 1 with S in the place of its lower bound."""
    return max(0.0, float(sigma * (norm.ppf(score) - norm.ppf(0.75))))


def plug_in_fcsb(score: float, sigma: float, epsilon: float) -> float | None:
    """Return the bound of Theorem 1 with S in the place of its lower bound; None where not positive."""
    bound = float(2 * norm.cdf(norm.ppf(score) - epsilon / sigma) - 1)
    return bound if bound > 0 else None


def mean_scores(
    defence: Defence, levels: Tensor, anchors: list[Tensor], samples: int, seed: int
) -> list[float]:
    """Return S for every anchor: the mean over images and noises of (1 + ⟨f(x+N), u⟩)/2.

    Args:
        defence: computes f.
        levels: [B, 3, S, S] grid levels.
        anchors: each [B, L, D] of norm 1.
        samples, seed: of the noises, which are independent of those of anchors and of attacks.
    """
    inner: list[list[Tensor]] = [[] for _ in anchors]
    for unit in noisy_units(defence, levels, samples, seed, "scores"):
        for values, anchor in zip(inner, anchors, strict=True):
            values.append((unit * anchor).sum((1, 2)))
    return [float((1 + torch.stack(values).double()).mean() / 2) for values in inner]


def evaluate(
    config: StudyConfig, test: Batch, defences: list[Defence], class_features: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Measure all defences; the last one is attacked adaptively too.

    Args:
        config: of the run.
        test: digits alone.
        defences: the rows; they share one encoder.
        class_features: [K, D].

    Returns:
        a record of numbers, strings and lists, as it goes into results.json; and the test images after the
        attack on the plain encoder, [B, 3, S, S] grid levels.
    """
    full = defences[-1]
    with torch.no_grad():
        anchor = clean_unit(full.encoder, test.images)
    attack = Attack(steps=config.evaluation.attack_steps, seed=config.seed)
    attacked = in_parts(attack, test.images, plain_score(full, class_features), "attack")
    with torch.no_grad():
        unsmoothed = predict(clean_unit(full.encoder, attacked), class_features)
    rows = [_row(config, defence, test, anchor, attacked, class_features) for defence in defences]
    record = {
        "images": len(test.images),
        "test_digest": test.digest(),
        "vanilla_accuracy": _share(predict(anchor, class_features) == test.labels),
        "attack": {**asdict(attack), "unsmoothed_success": _share(unsmoothed == TARGET)},
        "adaptive": _adaptive(config, test, full, class_features, anchor),
        "radii": list(RADII),
        "rows": [asdict(row) for row in rows],
    }
    return record, attacked


def _row(
    config: StudyConfig,
    defence: Defence,
    test: Batch,
    anchor: Tensor,
    attacked: Tensor,
    class_features: Tensor,
) -> Row:
    sigma, seed, n0 = config.sigma, config.seed, config.evaluation.n0
    served = smoothed(defence, test.images, n0, seed, "serving")
    score, score_served = mean_scores(defence, test.images, [anchor, served], config.evaluation.samples, seed)
    under_attack = predict(smoothed(defence, attacked, n0, seed, "attacked"), class_features)
    return Row(
        name=defence.name,
        accuracy=_share(predict(served, class_features) == test.labels),
        score=score,
        score_served=score_served,
        radius=plug_in_radius(score, sigma),
        fcsb=tuple(plug_in_fcsb(score, sigma, epsilon) for epsilon in RADII),
        attack_success=_share(under_attack == TARGET),
        attack_accuracy=_share(under_attack == test.labels),
    )


def _adaptive(
    config: StudyConfig, test: Batch, defence: Defence, class_features: Tensor, anchor: Tensor
) -> dict[str, Any]:
    evaluation, seed = config.evaluation, config.seed
    attack = Attack(steps=evaluation.adaptive_steps, seed=seed)
    score = adaptive_score(defence, class_features, evaluation.adaptive_noises, seed)
    attacked = in_parts(attack, test.images, score, "adaptive attack")
    served = smoothed(defence, attacked, evaluation.n0, seed, "attacked")
    predicted = predict(served, class_features)
    return {
        **asdict(attack),
        "noises": evaluation.adaptive_noises,
        "success": _share(predicted == TARGET),
        "accuracy": _share(predicted == test.labels),
        "cosine_to_clean": float((served * anchor).sum((1, 2)).mean()),
    }


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
