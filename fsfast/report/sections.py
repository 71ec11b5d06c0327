"""The sections of the page that show something: attacks, images, bounds, scores, costs."""

from __future__ import annotations

import numpy as np

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import round_down, show_alpha, show_bound, show_epsilon, show_radius
from fsfast.report import charts
from fsfast.report.curves import certificate_curves, method_curves, swatch
from fsfast.report.data import COSINE, RADII, Attack, Case, DemoResult, Seen
from fsfast.report.gather import LATENCY_RUNS
from fsfast.report.markup import escape, figure, fold, image, pair, picture, section, table
from fsfast.report.summary import attack_sizes
from fsfast.report.svg import COOL, WARM
from fsfast.runtime.pipeline import STEPS

# Attacked images that are shown at length; the table has all.
_SHOWN_ATTACKS = 2


def what_the_networks_see(result: DemoResult) -> str:
    """Show every image, with noise and purified, and the classes that are seen."""
    text = (
        "Each image as it is, one of its noisy samples (levels beyond 0 to 255 are cut off for display), and what "
        "the purifier makes of that sample. The plain encoder gets the clean image; the smoothed one averages "
        f"the features of n0 = {result.served.n0} such samples."
    )
    if "purifier" not in result.profile.stages:
        text = (
            "Each image as it is, and one of its noisy samples (levels beyond 0 to 255 are cut off for display). "
            "The plain encoder gets the clean image; the smoothed one averages the features of "
            f"n0 = {result.served.n0} noisy samples."
        )
    cards = "\n".join(_card(case) for case in result.cases)
    return section("What the networks see", f'<p>{text}</p>\n<div class="cards">\n{cards}\n</div>')


def _card(case: Case) -> str:
    pictures = [
        picture(case.image.pixels, f"{case.name}, clean", "clean"),
        picture(np.clip(case.sample.noisy, 0, 255), f"{case.name} with noise", "noisy"),
    ]
    if case.sample.purified is not None:
        purified = np.rint(case.sample.purified * 255)
        pictures.append(picture(purified, f"{case.name}, purified", "purified"))
    shown = "" if case.label is None else f" <small>shown: {escape(case.label)}</small>"
    cosine = f"cosine, smoothed to plain: {case.cosine_to_clean:.3f}"
    return (
        f'<article class="card"><h3>{escape(case.name)}{shown}</h3>\n'
        f'<div class="pictures">{"".join(pictures)}</div>\n'
        f'<p class="verdicts">{_verdicts(case.seen, case.label)}{cosine}</p></article>'
    )


def _verdicts(seen: Seen | None, label: str | None) -> str:
    """Return which classes were seen, as the beginning of a line."""
    if seen is None:
        return ""
    plain, smoothed = _verdict(seen.plain_class, label), _verdict(seen.smoothed_class, label)
    return f"plain encoder: {plain} · smoothed: {smoothed}<br />"


def _verdict(found: str, label: str | None) -> str:
    """Return the name of a class, marked as right or wrong where that is known."""
    if label is None:
        return f"<b>{escape(found)}</b>"
    return f'<b class="{"right" if found == label else "wrong"}">{escape(found)}</b>'


def under_attack(result: DemoResult) -> str:
    """Show the attacks and what the encoders see in them; nothing where there are none."""
    if not result.attacked:
        return ""
    text = (
        f"{_outcome(result)}The attacks were made on the plain encoder, with full knowledge of it: change no channel "
        f"of a pixel by more than {largest_change(result)} of 255 levels so that it sees the target. Blue is the class "
        "that is shown, orange the attack's target."
    )
    shown = "\n".join(_attack(case, i, result) for i, case in enumerate(result.attacked[:_SHOWN_ATTACKS]))
    return section("Under attack", f"<p>{text}</p>\n{shown}\n{_attack_table(result)}")


def _outcome(result: DemoResult) -> str:
    """Return how often the encoders saw what, as the beginning of a paragraph; nothing where that is not known."""
    cases = [
        (case.label, case.attack.target, case.attack.seen)
        for case in result.attacked
        if case.label and case.attack and case.attack.target and case.attack.seen
    ]
    if not cases:
        return ""
    turned = sum(seen.plain_class == target for _, target, seen in cases)
    held = sum(seen.smoothed_class == label for label, _, seen in cases)
    return (
        f"Of {len(cases)} attacked images, the plain encoder sees the attack's target in <b>{turned}</b>, and the "
        f"smoothed encoder still sees what is shown in <b>{held}</b>. "
    )


def largest_change(result: DemoResult) -> int:
    """Return by how many levels the attacks change a channel of a pixel at most."""
    return max(case.attack.linf for case in result.attacked if case.attack)


def _attack(case: Case, position: int, result: DemoResult) -> str:
    attack = case.attack
    assert attack is not None
    change = attack.image.pixels.astype(np.int64) - case.image.pixels
    factor = max(1, 127 // max(1, attack.linf))
    pictures = (
        picture(case.image.pixels, f"{case.name}, clean", "clean"),
        picture(
            np.clip(128 + factor * change, 0, 255),
            f"change that attacks {case.name}, magnified {factor} times around grey",
            f"change × {factor}",
        ),
        picture(attack.image.pixels, f"{case.name}, attacked", "attacked"),
    )
    return (
        f'<article class="case"><h3>{escape(case.name)}</h3>\n'
        f'<div class="attack"><div class="pictures">{"".join(pictures)}</div>\n'
        f"<p>{_attack_text(case, attack)}</p></div>\n"
        f"{_attack_chart(case, attack, position, result)}</article>"
    )


def _attack_text(case: Case, attack: Attack) -> str:
    size = (
        f"Target: {escape(attack.target or 'none')}. No channel is changed by more than {attack.linf} of 255 levels; "
        f"the change has ℓ₂ size {attack.l2:.2f}. The certificate for cosine ≥ {COSINE:g} ends at "
        f"{show_radius(case.certificate.radius(COSINE))}."
    )
    if attack.seen is None:
        return size
    plain = _verdict(attack.seen.plain_class, case.label)
    smoothed = _verdict(attack.seen.smoothed_class, case.label)
    return f"The plain encoder sees {plain}, the smoothed one {smoothed}. {size}"


def _attack_chart(case: Case, attack: Attack, position: int, result: DemoResult) -> str:
    if attack.seen is None:
        return ""
    seen = attack.seen
    bars = charts.class_bars(
        {
            f"Plain encoder: {charts.short(seen.plain_class)}": seen.plain,
            f"Smoothed encoder: {charts.short(seen.smoothed_class)}": seen.smoothed,
        },
        seen.names,
        label=case.label,
        target=attack.target,
        name=f"classes-{position}",
    )
    return figure(
        pair(*bars),
        f"{case.name}, attacked: the score of each class, a mean over tokens; smoothed with "
        f"n0 = {result.served.n0}, σ = {result.manifest.sigma:g}.",
    )


def _attack_table(result: DemoResult) -> str:
    rows = []
    for case in result.attacked:
        attack = case.attack
        assert attack is not None
        thumb = image(attack.image.pixels, f"{case.name}, attacked", "thumb")
        seen = attack.seen
        rows.append(
            [
                f"{thumb}{escape(case.name)}",
                escape(f"{case.label or '—'}, {attack.target or '—'}"),
                _verdict(seen.plain_class, case.label) if seen else "—",
                _verdict(seen.smoothed_class, case.label) if seen else "—",
                f"{attack.l2:.2f}",
                show_radius(case.certificate.radius(COSINE)),
            ]
        )
    header = [
        "attacked image",
        "shown,<br />target",
        "plain<br />sees",
        "smoothed<br />sees",
        "ℓ₂ size",
        f"certified radius,<br />cosine ≥ {COSINE:g}",
    ]
    caption = (
        f"Sizes with pixels in [0, 1]. {attack_sizes(result)}; where the "
        "smoothed encoder resists one, that is an observation, not a certificate."
    )
    return table(header, rows, caption, kind="words4")


def the_certificate(result: DemoResult) -> str:
    """Show the bounds: curves for the first image, and tables."""
    first, grid = result.cases[0], result.manifest.grid
    text = (
        f"With probability ≥ 1 − α = 1 − {show_alpha(result.alpha)} over fresh noise, for <em>every</em> image on the "
        f"{grid.height}×{grid.width} grid within ℓ₂ distance ε of the one that was certified: the cosine between its "
        "smoothed feature and the direction that was handed out is at least the curve. A curve ends where nothing "
        "is certified any more."
    )
    variants = {variant.title: variant.certificate for variant in result.variants}
    lines = certificate_curves(variants or {"certificate": first.certificate}, cosine=COSINE)
    caption = (
        f"{first.name}: n = {result.n} samples, α = {show_alpha(result.alpha)} for each curve, "
        f"σ = {result.manifest.sigma:g}. Dots: certified radius for cosine ≥ {COSINE:g}. Each choice of networks "
        "certifies the direction that it served itself, all from the same serving noise."
    )
    rows = [
        [
            f"{swatch(i, len(result.variants))}{escape(variant.title)}",
            *_bounds(variant.certificate, result),
        ]
        for i, variant in enumerate(result.variants)
    ]
    tables = []
    if rows:
        header = ["networks", *_bound_header(result)]
        shown = table(header, rows, f"{first.name}, as in the chart. Rounded down.")
        tables.append(fold("The curves in numbers", shown))
    if len(result.cases) > 1:
        rows = [[escape(case.name), *_bounds(case.certificate, result)] for case in result.cases]
        networks = " → ".join(result.profile.stages)
        tables.append(
            table(["image", *_bound_header(result)], rows, f"All images, {networks}. Rounded down.")
        )
    methods = figure(
        method_curves(first.certificate, cosine=COSINE),
        f"{first.name}, {' → '.join(result.profile.stages)}: the certificate is “joint”. The paper prints "
        "the dashed numbers, which have no confidence bound.",
    )
    parts = [pair(figure(lines, caption), methods), *tables]
    return section("The certificate", f"<p>{text}</p>\n" + "\n".join(parts))


def _bound_header(result: DemoResult) -> list[str]:
    names = {0.25: "¼σ", 0.5: "½σ", 1.0: "σ"}
    radii = zip(RADII, result.radii, strict=True)
    return [
        "mean score<br />≥ S<sub>L</sub>",
        *(f"cosine ≥ at<br />ε = {show_epsilon(radius)} ({names[factor]})" for factor, radius in radii),
        f"radius for<br />cosine ≥ {COSINE:g}",
    ]


def _bounds(certificate: Certificate, result: DemoResult) -> list[str]:
    """Return S_L, the bounds at the stated radii, and the radius, rounded down."""
    return [
        round_down(certificate.score_lower_bound, 4),
        *(show_bound(certificate.cosine(radius)) for radius in result.radii),
        show_radius(certificate.radius(COSINE)),
    ]


def scores(result: DemoResult) -> str:
    """Show the scores that the first image's certificates are computed from."""
    first = result.cases[0]
    shown = {variant.title: variant.certificate for variant in result.variants}
    if len(shown) > 1:
        titles = list(shown)
        shown = {
            "Encoder alone" if titles[0] == "encoder alone" else titles[0]: shown[titles[0]],
            "With " + " and ".join(s for s in result.profile.stages if s != "encoder"): shown[titles[-1]],
        }
    else:
        shown = {"Certification scores": first.certificate}
    text = (
        "What a certificate is computed from: the score of every noisy sample. From them follow S<sub>L</sub>, a "
        "lower bound of the expected score, and for each threshold (chosen from other noise) a lower bound of "
        "the share of scores above it; everything above follows from these."
    )
    caption = (
        f"{first.name}: n = {result.n} scores each, all bounds together with α = {show_alpha(result.alpha)}, "
        f"σ = {result.manifest.sigma:g}.{' Each has axes of its own.' if len(shown) > 1 else ''}"
    )
    colours = (WARM, COOL) if len(shown) > 1 else (COOL,)
    histograms = [
        charts.score_histogram(certificate, title, colour=colour, name=f"scores-{i}")
        for i, ((title, certificate), colour) in enumerate(zip(shown.items(), colours, strict=True))
    ]
    return section("Scores", f"<p>{text}</p>\n{figure(pair(*histograms), caption)}", short=True)


def what_it_costs(result: DemoResult) -> str:
    """Show latencies and the time of every step; nothing where they were not measured."""
    if not result.variants:
        return ""
    first, last = result.variants[0], result.variants[-1]
    lines = {variant.title: variant.latency for variant in dict.fromkeys((first, last))}
    latency = figure(
        charts.latency_lines(lines),
        f"Median of {LATENCY_RUNS} runs, shaded from the 20th to the 80th percentile; {result.threads} thread"
        f"{'' if result.threads == 1 else 's'}, σ = {result.manifest.sigma:g}.",
    )
    steps = {variant.title: variant.steps_ms for variant in result.variants}
    stages = figure(
        charts.stage_bars(steps),
        f"Mean of {LATENCY_RUNS} runs with n0 = {last.latency[-1]['n0']}; threads share the samples.",
    )
    rows = [[s, *(f"{ms[s]:.3f}" if ms[s] else "—" for ms in steps.values())] for s in STEPS]
    rows.append(["sum", *(f"{sum(ms.values()):.3f}" for ms in steps.values())])
    header = ["step", *map(escape, steps)]
    steps_table = fold("The bars in numbers", table(header, rows, "Milliseconds per sample on one thread."))
    text = (
        "Smoothing costs one pass per noisy sample. Serving takes n0 of them for an image, a certificate "
        f"takes n = {result.n} more, once, and may be made later."
    )
    return section(
        "What it costs",
        f"<p>{text}</p>\n{pair(latency, stages)}\n{steps_table}",
        short=True,
    )
