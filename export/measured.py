"""The results of a training run as Markdown: tables and sentences that model card and docs share."""

from __future__ import annotations

from typing import Any

# A repetition on another machine rounds differently and so trains differently; its results should differ by no
# more than other seeds' do. Test images differ with the seed, so these bounds are generous for the same seed.
TOLERANCES = {"accuracy": 0.03, "S": 0.002, "R": 0.04}


def results_markdown(record: dict[str, Any]) -> str:
    """Return the results of a record as Markdown, without a title."""
    lines = [
        f"{record['images']} test images (digits and grounds that training never saw), σ = {record['sigma']:g}, seed "
        f"{record['seed']}. The vanilla encoder without noise is right on {record['vanilla_accuracy']:.1%}.",
        "",
        *ablation_table(record),
        "",
        "S is the mean score with the clean feature as anchor, R = σ(Φ⁻¹(S) − Φ⁻¹(.75)) and FCSB the bound",
        "2Φ(Φ⁻¹(S) − ε/σ) − 1 with the mean in the place of a confidence bound, as the paper prints them:",
        "they compare networks and certify nothing. Certificates come from `fsfast certify`.",
        "",
        *attack_lines(record),
        "",
        "| pictures of the grounds | kind | licence |",
        "|---|---|---|",
        *(f"| {source['name']} | {source['kind']} | {source['licence']} |" for source in record["sources"]),
        "",
        "The digits are scikit-learn's (UCI Optical Recognition of Handwritten Digits, CC-BY-4.0).",
        "",
    ]
    return "\n".join(lines)


def ablation_table(record: dict[str, Any]) -> list[str]:
    """Return a Markdown table with a row per choice of stages: Table 5 of the paper."""
    radii = " | ".join(f"FCSB ε = {epsilon:g}" for epsilon in record["radii"])
    return [
        f"| networks | accuracy, n0 = {record['n0']} | S | S, served anchor | R | {radii} "
        "| attack succeeds | accuracy under attack |",
        "|---|---|---|---|---|" + "---|" * len(record["radii"]) + "---|---|",
        *(_row(row) for row in record["rows"]),
    ]


def attack_lines(record: dict[str, Any]) -> list[str]:
    """Return sentences about both attacks."""
    attack, adaptive = record["attack"], record["adaptive"]
    return [
        f"Attacks: {attack['steps']} steps of projected gradient ascent on the score of a class that no test image",
        f"belongs to (the star), ℓ∞ {attack['radius']:g}/255. Made on the plain encoder, the attack succeeds on "
        f"{attack['unsmoothed_success']:.1%}",
        "of the images without smoothing; the last columns are of the same images with smoothing. Made on the whole",
        f"defence ({adaptive['steps']} steps, {adaptive['noises']} noises each, gradients through all networks), it "
        f"succeeds on {adaptive['success']:.1%},",
        f"and the answer stays right on {adaptive['accuracy']:.1%}. Its ℓ2 norm is far beyond the certified radii.",
    ]


def _row(row: dict[str, Any]) -> str:
    bounds = " | ".join("none" if bound is None else f"{bound:.3f}" for bound in row["fcsb"])
    return (
        f"| {row['name']} | {row['accuracy']:.1%} | {row['score']:.4f} | {row['score_served']:.4f} | "
        f"{row['radius']:.3f} | {bounds} | {row['attack_success']:.1%} | {row['attack_accuracy']:.1%} |"
    )


def summary(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers by which two runs are compared."""
    full = record["rows"][-1]
    return {
        "vanilla accuracy": record["vanilla_accuracy"],
        "smoothed accuracy": full["accuracy"],
        "S": full["score"],
        "R": full["radius"],
    }


def spread_markdown(record: dict[str, Any]) -> list[str]:
    """Return lines that compare a record with its `other_seeds`, and state the tolerance of a repetition."""
    runs = [record, *record["other_seeds"]]
    columns = list(summary(record))
    lines = ["### Repetition", "", f"| seed | {' | '.join(columns)} | adaptive attack succeeds |"]
    lines.append("|---|" + "---|" * (len(columns) + 1))
    for run in runs:
        cells = [_cell(name, value) for name, value in summary(run).items()]
        lines.append(f"| {run['seed']} | {' | '.join(cells)} | {run['adaptive']['success']:.1%} |")
    lines += [
        "",
        "`python -m train demo && python -m export demo` gives these numbers again, with the same seed, within "
        f"±{TOLERANCES['accuracy']:.0%} in accuracy,",
        f"±{TOLERANCES['S']:g} in S and ±{TOLERANCES['R']:g} in R: another processor rounds differently, and "
        "training amplifies that.",
        "",
    ]
    return lines


def _cell(name: str, value: float) -> str:
    return f"{value:.1%}" if "accuracy" in name else f"{value:.4f}"
