"""The demo's findings as text for a terminal and as JSON."""

from __future__ import annotations

from typing import Any

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import show_alpha, show_bound, show_epsilon, show_radius
from fsfast.report.data import COSINE, Attack, Case, DemoResult, Seen
from fsfast.report.text import RANDOM_WEIGHTS, only_these_classes, table
from fsfast.runtime.pipeline import STEPS


def to_text(result: DemoResult) -> str:
    """Return the findings as tables, at most 100 columns wide where names are short."""
    manifest = result.manifest
    parts = [
        f"{manifest.name}: {' → '.join(result.profile.stages)} on a {manifest.grid.height}×{manifest.grid.width} grid; "
        f"σ = {manifest.sigma:g}, n0 = {result.served.n0}, n = {result.n}, α = {show_alpha(result.alpha)}",
        _images(result),
        _attacks(result),
        _networks(result),
        f"same seeds again: {'bit-equal' if result.bit_equal else 'DIFFERENT'}; "
        f"replay of the first certificate: {result.verification.verdict}\n"
        f"first feature {result.first_feature_s:.2f} s after start of the engine; "
        f"certification {result.samples_per_s:.0f} samples/s on {result.threads} "
        f"thread{'' if result.threads == 1 else 's'}",
        RANDOM_WEIGHTS if manifest.random_weights else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _images(result: DemoResult) -> str:
    labels = any(case.label for case in result.cases)
    header = ["image"]
    header += ["shown"] if labels else []
    header += ["plain", "smoothed"] if result.classes else []
    bounds = [
        f"{'cos ≥ at ε=' if i == 0 else 'ε='}{show_epsilon(radius)}" for i, radius in enumerate(result.radii)
    ]
    rows = [
        [
            case.name,
            *([case.label or "—"] if labels else []),
            *([case.seen.plain_class, case.seen.smoothed_class] if case.seen else []),
            *(show_bound(case.certificate.cosine(radius)) for radius in result.radii),
            show_radius(case.certificate.radius(COSINE)),
        ]
        for case in result.cases
    ]
    text = table(rows, [*header, *bounds, f"radius for cos ≥ {COSINE:g}"])
    if result.classes:
        text += f"\nplain: the encoder alone, without noise. smoothed: the mean of {result.served.n0} noisy passes."
    if result.classes and not labels and not result.manifest.random_weights:
        text += f"\n{only_these_classes(result.classes)}"
    return text


def _attacks(result: DemoResult) -> str:
    if not result.attacked:
        return ""
    rows = []
    for case in result.attacked:
        attack = case.attack
        assert attack is not None
        seen = [attack.seen.plain_class, attack.seen.smoothed_class] if attack.seen else []
        radius = show_radius(case.certificate.radius(COSINE))
        rows.append([case.name, attack.target or "—", *seen, str(attack.linf), f"{attack.l2:.2f}", radius])
    classes = ["plain", "smoothed"] if result.classes else []
    header = ["under attack", "target", *classes, "ℓ∞ levels", "ℓ2 size", "certified ℓ2 radius"]
    return (
        f"{table(rows, header)}\n"
        f"{attack_sizes(result)}. They were made on the plain\n"
        "encoder; where the smoothed one resists, that is an observation, not a certificate."
    )


def _networks(result: DemoResult) -> str:
    """Return the milliseconds per step and, where there are variants, what each certifies."""
    if not result.variants:
        row = ["all"] + [f"{result.steps_ms[step]:.2f}" for step in STEPS]
        return table([row], ["ms per sample", *STEPS])
    rows = [
        [
            variant.title,
            show_radius(variant.certificate.radius(COSINE)),
            *(f"{ms:.2f}" if (ms := variant.steps_ms[step]) else "—" for step in STEPS),
            f"{sum(variant.steps_ms.values()):.2f}",
        ]
        for variant in result.variants
    ]
    name = result.cases[0].name
    text = table(rows, ["networks", "radius", *STEPS, "sum"])
    return f"{text}\nradius: for cos ≥ {COSINE:g} of {name}. The rest: ms per sample on one thread."


def attack_sizes(result: DemoResult) -> str:
    """Return how the attacks compare with the certified radii, as the beginning of a sentence."""
    sizes = [(case.attack.l2, case.certificate.radius(COSINE)) for case in result.cases if case.attack]
    times = min((size / radius for size, radius in sizes if radius > 0), default=None)
    if times is None or times < 2:
        return "No certificate covers the attacks"
    return f"In ℓ2 the attacks are at least {int(times)} times as large as the certified radii"


def to_json(result: DemoResult) -> dict[str, Any]:
    """Return the findings as a JSON document; certificates and features have files of their own."""
    manifest = result.manifest
    return {
        "engine": manifest.name,
        "stages": list(result.profile.stages),
        "sigma": manifest.sigma,
        "n0": result.served.n0,
        "n": result.n,
        "alpha": result.alpha,
        "classes": None if result.classes is None else list(result.classes),
        "features": list(result.served.features.shape),
        "images": [_case_json(case, result) for case in result.cases],
        "variants": [
            {
                "stages": list(variant.stages),
                **_certificate_json(variant.certificate, result),
                "latency": list(variant.latency),
            }
            for variant in result.variants
        ],
        "bit_equal_replay": result.bit_equal,
        "verify": result.verification.verdict,
        "first_feature_s": result.first_feature_s,
        "samples_per_s": result.samples_per_s,
        "steps_ms": result.steps_ms,
        "threads": result.threads,
        "processor": result.processor,
        "version": result.version,
        "date": result.date.isoformat(timespec="seconds"),
        "random_weights": manifest.random_weights,
    }


def _case_json(case: Case, result: DemoResult) -> dict[str, Any]:
    return {
        "name": case.name,
        "file": case.image.name,
        "drawn": case.label,
        **_seen_json(case.seen),
        "cosine_to_clean": case.cosine_to_clean,
        **_certificate_json(case.certificate, result),
        "attack": None if case.attack is None else _attack_json(case.attack),
    }


def _attack_json(attack: Attack) -> dict[str, Any]:
    return {
        "target": attack.target,
        "linf_levels": attack.linf,
        "l2": attack.l2,
        **_seen_json(attack.seen),
    }


def _seen_json(seen: Seen | None) -> dict[str, Any]:
    if seen is None:
        return {"plain": None, "smoothed": None}
    return {
        "plain": {"class": seen.plain_class, "scores": seen.plain.tolist()},
        "smoothed": {"class": seen.smoothed_class, "scores": seen.smoothed.tolist()},
    }


def _certificate_json(certificate: Certificate, result: DemoResult) -> dict[str, Any]:
    return {
        "score_lower_bound": certificate.score_lower_bound,
        "bounds": [{"epsilon": radius, "cosine": certificate.cosine(radius)} for radius in result.radii],
        f"radius_cosine_{COSINE:g}": certificate.radius(COSINE),
    }
