"""The demo's page: one HTML file without any reference to the outside, readable on screen and on paper."""

from __future__ import annotations

from pathlib import Path
from string import Template

from fsfast.certificates.wording import show_alpha
from fsfast.report import sections
from fsfast.report.data import DemoResult
from fsfast.report.markup import escape, section
from fsfast.report.text import RANDOM_WEIGHTS, only_these_classes

TEMPLATE = Path(__file__).parent / "template.html"
PAPER = "https://arxiv.org/abs/2601.16200"


def render_page(result: DemoResult) -> str:
    """Return the page as HTML."""
    parts = [
        sections.under_attack(result),
        sections.what_the_networks_see(result),
        sections.the_certificate(result),
        sections.scores(result),
        sections.what_it_costs(result),
        _what_this_says(result),
        _this_run(result),
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Smoothed vision features, certified",
        lead=_lead(result),
        notes=_notes(result),
        sections="\n".join(part for part in parts if part),
    )


def _lead(result: DemoResult) -> str:
    count = len(result.cases)
    images = "One image" if count == 1 else f"{count} images"
    attack = "what an attack changes, " if result.attacked else ""
    return (
        f"{images} through a vision encoder that is averaged over Gaussian noise "
        f'(<a href="{PAPER}">Feature-space Smoothing</a>): {attack}what the networks see, and how far the features '
        "can provably turn."
    )


def _notes(result: DemoResult) -> str:
    if result.manifest.random_weights:
        return f'<p class="note">{escape(RANDOM_WEIGHTS)}</p>'
    if result.classes and not any(case.label for case in result.cases):
        return f'<p class="note">{escape(only_these_classes(result.classes))}</p>'
    return ""


def _what_this_says(result: DemoResult) -> str:
    grid = result.manifest.grid
    said = [
        "A certificate covers every change of ℓ₂ size up to ε of the image "
        f"<em>on the {grid.height}×{grid.width} grid</em>, however it was found; it says nothing about the file before "
        "decoding and resizing, and nothing about larger changes.",
        f"It is wrong with probability at most α = {show_alpha(result.alpha)} per certificate, over the noise; it "
        "bounds how far the features turn, not what is made of them.",
    ]
    if result.attacked:
        most = sections.largest_change(result)
        said.append(
            f"The attacks shown here (ℓ∞ {most}/255) are far larger than the certified radii and were made on the "
            "plain encoder, not on the smoothed one: surviving them is an observation, not a certificate. The engine's "
            "model card tells what attacks on the whole defence do."
        )
    items = "\n".join(f"<li>{text}</li>" for text in said)
    return section("What this says and what it does not", f"<ul>\n{items}\n</ul>", short=True)


def _this_run(result: DemoResult) -> str:
    manifest, profile = result.manifest, result.profile
    threads = f"{result.threads} thread{'' if result.threads == 1 else 's'}"
    facts = {
        "engine": f"{manifest.name}, {manifest.grid.height}×{manifest.grid.width} pixels",
        "engine digest": f"{result.served.engine_digest[:16]}…",
        "networks": " → ".join(profile.stages),
        "run by": f"{profile.backend} {profile.backend_version}, {profile.precision}, M = {profile.micro_batch}",
        "noise σ": f"{manifest.sigma:g}",
        "error probability α": show_alpha(result.alpha),
        "serving samples n0": str(result.served.n0),
        "certification samples n": str(result.n),
        "processor": f"{result.processor}, {threads}",
        "certification": f"{result.samples_per_s:.0f} samples/s",
        "first feature": f"{result.first_feature_s:.2f} s after opening the engine",
        "same seeds again": "bit-equal" if result.bit_equal else "DIFFERENT",
        "replay of the first certificate": result.verification.verdict,
        "fsfast": f"{result.version}, {result.date:%Y-%m-%d %H:%M %Z}",
    }
    items = "\n".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items()
    )
    return section("This run", f'<dl class="facts">\n{items}\n</dl>', short=True)
