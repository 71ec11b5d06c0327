"""The model card that travels with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fsfast.report.text import some_names

from .elsewhere import Elsewhere
from .measured import results_markdown, spread_markdown

# How lines begin that a new one is put behind, or in the place of.
_FEATURES, _CLASSES = "Features:", "Classes,"


def model_card(
    record: dict[str, Any],
    parameters: dict[str, int],
    results: dict[str, Any] | None,
    others: Sequence[Elsewhere] = (),
    said: str = "",
) -> str:
    """Return the engine's model card in Markdown.

    Args:
        record: the manifest.
        parameters: stage → number of them.
        results: what the training measured, with `other_seeds`; None without a training run.
        others: what came of an encoder from outside on other back ends; empty for networks of ours.
        said: Markdown that it ends with.
    """
    warning = (
        "**The weights are random: these networks were never trained.** The engine shows that the machinery "
        "works; its features mean nothing.\n\n"
        if record["random_weights"]
        else ""
    )
    grid, output = record["grid"], record["output"]
    lines = [
        f"# {record['name']}\n",
        f"{warning}An engine of fsfast {record['version']}: Feature-space Smoothing (arXiv 2601.16200) at "
        f"σ = {record['sigma']:g} on a {grid['height']}×{grid['width']} grid.\n",
        f"| stage | parameters | input | output | worst deviation from {'the original' if others else 'torch'} |",
        "|---|---|---|---|---|",
    ]
    for stage, variants in record["stages"].items():
        (precision, variant), *_ = variants.items()
        shapes = ("×".join(map(str, variant[key]["shape"])) for key in ("input", "output"))
        worst = max(row["max_abs"] for row in variant["parity"])
        lines.append(
            f"| {stage} | {parameters[stage]:,} | {' | '.join(shapes)} | {worst:.1e} ({precision}) |"
        )
    lines += [
        "",
        f"{_FEATURES} {output['kind']}, {output['tokens']} × {output['dim']}. Serving samples: n0 = {record['n0']}.",
        *_classes(record),
        "",
        *_elsewhere(others),
        "What a certificate from this engine says, and what it does not say, stands in fsfast's README and in",
        "docs/certificates.md. It speaks about images on the grid above, not about files before resizing.",
        "",
        "| stage | weights | licence |",
        "|---|---|---|",
        *(
            f"| {p['stage']} | {p['source']} | {p['licence']} |"
            for p in record["provenance"]
            if p["stage"] in record["stages"]
        ),
        "",
        *_results(results),
        *([said.rstrip(), ""] if said else []),
    ]
    return "\n".join(lines)


def with_classes(card: str, record: dict[str, Any]) -> str:
    """Return a model card with the classes of a manifest in the place of those that it had."""
    lines = [line for line in card.split("\n") if not line.startswith((_CLASSES, "They come from "))]
    after = (i for i, line in enumerate(lines, 1) if line.startswith(_FEATURES))
    at = next(after, len(lines))
    lines[at:at] = _classes(record)
    return "\n".join(lines)


def reduced_precisions(card: str, record: dict[str, Any]) -> str:
    """Return a model card with a table of the precisions beside float32 at its end."""
    rows = [
        f"| {stage} | {precision} | {variant['file']} | {variant['parity'][0]['cosine']:.6f} "
        f"| {variant['tolerance']:g} |"
        for stage, variants in record["stages"].items()
        for precision, variant in variants.items()
        if precision != "float32"
    ]
    how = record["quantisation"]
    lines = [
        card.rstrip(),
        "",
        "## Reduced precisions",
        "",
        f"Measured on {max(how['samples'] // 4, 1)} noisy samples of {how['images']} pictures, against float32; scales "
        f"of 8-bit products come from {how['samples']} others.",
        "",
        "| stage | precision | graph | smallest cosine to float32 | tolerance of the self-test |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def _elsewhere(others: Sequence[Elsewhere]) -> list[str]:
    if not others:
        return []
    return [
        "The encoder came from outside; its graph beside the original, on noisy pictures:",
        "",
        "| back end | rows | max abs Δ | smallest cosine |",
        "|---|---|---|---|",
        *(
            f"| {other.backend} | {row['batch']} | {row['max_abs']:.1e} | {row['cosine']:.9f} |"
            for other in others
            for row in other.parity
        ),
        *(f"| {other.backend} | | {other.said} | |" for other in others if other.said),
        "",
    ]


def _classes(record: dict[str, Any]) -> list[str]:
    if "classes" not in record:
        return []
    names = record["classes"]["names"]
    kind = "row of a linear classifier" if record["classes"].get("kind") == "linear" else "direction"
    return [
        f"{_CLASSES} each with a {kind} to compare features with: {some_names(names)}.",
        *(f"They come from {p['source']}." for p in record["provenance"] if p["stage"] == "classes"),
    ]


def _results(results: dict[str, Any] | None) -> list[str]:
    if results is None:
        return []
    return ["## What was measured", "", results_markdown(results), *spread_markdown(results)]
