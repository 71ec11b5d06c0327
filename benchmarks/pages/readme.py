"""Make the tables of the documents anew from the results files: `python -m benchmarks.pages.readme`.

The documents name the folder of each table, so that no table mixes machines; FOLDER puts another one into the section
on kernels, bounds and small engines, and into the README's plots.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

from benchmarks.measuring.harness import RESULTS, machine
from benchmarks.measuring.tables import markdown, number, read, share
from benchmarks.pages import attacks, load, performance, photo, scaling, sizing, stacks
from export.measured import ablation_table, attack_lines
from fsfast.certificates.wording import round_down
from fsfast.engine.engine import engine_path
from fsfast.files import write_whole

README = Path(__file__).parents[2] / "README.md"
PAGES = (
    README,
    *(
        README.parent / "docs" / f"{name}.md"
        for name in (
            "performance",
            "certificates",
            "training",
            "images",
            "gpu",
            "engines",
            "clients",
            "operations",
            "ray",
            "photo",
            "stacks/index",
            "attacks",
            "SECURITY",
        )
    ),
)
TITLES = {
    "kernels": "Kernels, one core",
    "bounds": "Bounds, without sampling",
    "serving": "The built-in engine",
    "vit": "ViT-B/16 (random weights)",
}


def shown(row: dict[str, str]) -> bool:
    """Whether a row is for the documents; the others stand in the results files."""
    kernel = row["case"] in ("noisy_batch", "denoise_resize_normalise", "cosine_mean")
    return row["case"] != "step" and (row["threads"] == "1" or not kernel)


_PLACE = re.compile(r"(<!-- results: (?P<folder>\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
_CERTIFICATES = re.compile(r"(<!-- certificates -->\n).*?(<!-- end of certificates -->)", re.DOTALL)
_FUZZ = re.compile(r"(<!-- fuzz -->\n).*?(<!-- end of fuzz -->)", re.DOTALL)
_HOSTS = re.compile(r"(<!-- hosts -->\n).*?(<!-- end of hosts -->)", re.DOTALL)
_COUNTS = re.compile(r"(<!-- counts -->\n).*?(<!-- end of counts -->)", re.DOTALL)
_STUDY = re.compile(r"(<!-- study: (?P<engine>\S+) -->\n).*?(<!-- end of study -->)", re.DOTALL)


def render_file(path: Path) -> str:
    """Return a results file as a Markdown table."""
    cells = [
        [
            r["case"],
            r["variant"],
            r["threads"],
            number(r["p50_ms"]),
            f"{number(r['rate'])} {r['unit']}",
            share(r),
        ]
        for r in read(path)
        if shown(r)
    ]
    return markdown(("case", "variant", "threads", "ms (median)", "rate", "share"), cells)


def render(folder: Path) -> str:
    """Return the section on kernels, bounds and small engines from the results files in a folder."""
    parts = [
        f"### {title}\n\n{render_file(folder / f'{name}.csv')}"
        for name, title in TITLES.items()
        if (folder / f"{name}.csv").exists()
    ]
    if not parts:
        return ""
    first = read(next(folder / f"{name}.csv" for name in TITLES if (folder / f"{name}.csv").exists()))[0]
    parts.append(
        "noisy_batch and denoise_resize_normalise work on four images, 224×224 and as stated. The share of copy "
        "bandwidth is the time of copying as many bytes over the kernel's; sums that stay in the cache can make it "
        "exceed 100 %. M is the number of rows per run: M=4 side by side is a single run, and one core idles.\n\n"
        f"Measured on {first['device']} at {first['date']} with ONNX Runtime {first['onnxruntime']}, "
        f"torch {first['torch']}, NumPy {first['numpy']}; p20 and p80 stand in `benchmarks/results/{folder.name}/`.\n"
    )
    return "\n".join(parts)


def updated(text: str) -> str:
    """Return a document with its tables made anew from the folders and the engine that it names."""
    text = _CERTIFICATES.sub(lambda m: m[1] + render_certificates(RESULTS / "certificates") + m[2], text)
    text = _STUDY.sub(lambda m: m[1] + render_study(engine_path(m["engine"]) / "results.json") + m[3], text)
    text = _FUZZ.sub(lambda m: m[1] + render_fuzz(RESULTS / "fuzz" / "outcomes.csv") + m[2], text)
    text = _HOSTS.sub(lambda m: m[1] + render_hosts(RESULTS / "images" / "hosts.csv") + m[2], text)
    text = _COUNTS.sub(lambda m: m[1] + render_counts(RESULTS / "counts" / "gpu.csv") + m[2], text)
    text = _PLACE.sub(lambda m: m[1] + render(RESULTS / m["folder"]) + m[3], text)
    for pages in (performance, photo, load, sizing, scaling, stacks, attacks):
        text = pages.updated(text)
    return text


def render_certificates(folder: Path) -> str:
    """Return what the certificates' results files say."""
    rows = read(folder / "methods.csv")
    distances = [name.removeprefix("bound_") for name in rows[0] if name.startswith("bound_")]
    cells = [
        [r["n"], r["method"], round_down(Decimal(r["mean_radius"]), 3)]
        + [f"{round_down(Decimal(r[f'bound_{d}']), 3)}{_none(r[f'none_{d}'])}" for d in distances]
        for r in rows
    ]
    header = ["n", "method", "mean radius (cos ≥ .5)", *(f"cos ≥ at ε = {d} σ" for d in distances)]
    (stop,), attacked = read(folder / "stopping.csv"), read(folder / "soundness.csv")
    margin = min(float(a["after"]) - float(a["bound"]) for a in attacked)
    violated = sum(a["violated"] == "True" for a in attacked)
    cases, samples = read(folder / "coverage.csv"), read(folder / "samples.csv")
    beyond = sum(float(c["share"]) > float(c["limit"]) for c in cases)
    fixed = next(s for s in samples if s["method"] == "fixed n: hoeffding + fcsb")
    joint = next(s for s in samples if s["method"] == "joint, sequential")
    fewer = float(fixed["median"]) / float(joint["median"])
    images = " and ".join(f"{r['images']} at n = {r['n']}" for r in rows if r["method"] == "joint")
    lines = [
        markdown(header, cells),
        f"Means over test images ({images}), α = {rows[0]['alpha']}; in brackets the share of images with no "
        "certificate, counted as 0.",
        "",
        f'* Deciding "cosine ≥ .5 at ε = σ" takes {stop["median_n"]} samples in the median '
        f"({stop['images']} images with mean cosine ≥ .9); Hoeffding's bound with the paper's theorem would need "
        f"{int(stop['median_n_hoeffding_fcsb']):,}, {float(stop['times_fewer']):.0f} times as many. For Beta "
        f"scores with mean cosine {joint['mean_cosine']} it takes {float(joint['median']):.0f} instead of "
        f"{float(fixed['median']):,.0f}, {fewer:.0f} times fewer.",
        f"* The confidence bounds were tried on {len(cases)} combinations of scores, n, α and stopping, "
        f"{int(cases[0]['runs']):,} runs each: {beyond} failed more often than α allows beyond chance.",
        f"* {len(attacked)} adaptive ℓ2 attacks at certified radii, through the whole function: {violated} violations; "
        f"the smallest margin between measured and certified cosine is {margin:.3f}.",
        "",
    ]
    return "\n".join(lines)


def render_fuzz(path: Path) -> str:
    """Return what became of mutated files."""
    if not path.exists():
        return ""
    tables = [path, path.with_name("kills.csv"), path.with_name("sanitize.csv")]
    found = [read(table) for table in tables if table.exists()]
    return "\n".join(markdown(list(rows[0]), [list(row.values()) for row in rows]) for rows in found)


def render_hosts(path: Path) -> str:
    """Return, per host and kind of picture, the largest deviations of the grid from the host's pixels."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read(path):
        groups.setdefault((row["host"], row["fit"], row["picture"]), []).append(row)
    cells = [
        [
            *key,
            f"{max(float(r['largest']) for r in rows):.0f}",
            f"{max(float(r['share_above_one']) for r in rows):.2%}",
            " … ".join(f"{f(float(r['l2']) for r in rows):.2f}" for f in (min, max)),
        ]
        for key, rows in groups.items()
    ]
    return markdown(
        ("host", "`fit`", "picture", "largest (levels)", "share above one", "ℓ2 (σ's units)"), cells
    )


def render_counts(path: Path) -> str:
    """Return what networks ask of a GPU: counts, and the time that follows from them."""
    cells = [
        [r["network"], r["how"], r["m"], r["launches"], r["gb"], r["tflop"], r["ms"]] for r in read(path)
    ]
    return markdown(("network", "as", "M", "launches", "GB", "TFLOP", "ms per row, at least"), cells)


def _none(share: str) -> str:
    return f" ({float(share):.0%} none)" if float(share) else ""


def render_study(path: Path) -> str:
    """Return what an engine's training measured."""
    record = json.loads(path.read_text(encoding="utf-8"))
    head = (
        f"{record['images']} test images, σ = {record['sigma']:g}, seed {record['seed']}; the vanilla encoder without "
        f"noise is right on {record['vanilla_accuracy']:.1%}."
    )
    return "\n".join([head, "", *ablation_table(record), "", *attack_lines(record), ""])


def main(argv: list[str] | None = None) -> int:
    """Update the documents from the folders that they name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages.readme", description=__doc__)
    parser.add_argument("folder", nargs="?", help="in benchmarks/results: show this machine")
    folder = parser.parse_args(argv).folder
    if folder is not None and not any((RESULTS / folder / f"{name}.csv").exists() for name in TITLES):
        parser.error(
            f"wanted a folder with results in {RESULTS}, as {machine()} on this machine, got {folder!r}; run "
            "python -m benchmarks first"
        )
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if folder is not None:
            text = re.sub(r"<!-- (results|plots): \S+ -->", rf"<!-- \1: {folder} -->", text)
        write_whole(page, updated(text).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
