"""What the photo engines' model card ends with: `python -m benchmarks.pages.photo_card FILE.md --runs DIR [DIR …]`.

Data, training and what was measured, from the tables in benchmarks/results/photo/ and the folders of the training runs,
for `fsfast export … --card FILE.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from benchmarks.measuring.harness import RESULTS
from benchmarks.pages import photo
from fsfast.files import write_whole

_STUDY = """## On photographs that they have not seen

S is the mean score (1 + cosine)/2 against the encoder's features without noise, R and FCSB the paper's numbers with S
in the place of its lower bound: they compare networks and certify nothing.
"""
_ATTACKS = """## Under attack

ℓ∞ 16/255 towards the features of another photograph; plain: made on the encoder alone; adaptive: through everything,
with 8 fresh noises per step and two starts. No certificate speaks of attacks of this size.
"""
_DATA = """## Data

The purifier was trained on these pictures, fetched by `python -m train photo-data`; none is in the engine. The encoder
was trained on ImageNet by others.
"""
_REPETITION = (
    "\nMinutes beside other work on two cores. Another processor rounds differently, and training amplifies that; no "
    "second run has been measured.\n"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages.photo_card", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR")
    options = parser.parse_args(argv)
    write_whole(options.file, text(options.runs).encode())
    return 0


def text(runs: Sequence[Path]) -> str:
    """Return the end of the card; parts whose tables are not there are left out."""
    folder = RESULTS / "photo"
    parts = [_DATA, photo.render_data(folder), "## Training\n", *map(_run, runs), _REPETITION]
    for title, table, render in (
        (_STUDY, "summary", photo.render_study),
        ("### Certified\n", "certificates", photo.render_certificates),
        (_ATTACKS, "attacked", photo.render_attacks),
    ):
        if (folder / f"{table}.csv").exists():
            parts += [title, render(folder)]
    return "\n".join(parts)


def _run(folder: Path) -> str:
    """A line about a training run."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    with safe_open(folder / "purifier.safetensors", "numpy") as file:
        said = json.loads(file.metadata()["training"])
    last = {row["stage"]: row for row in rows}
    steps = ", ".join(
        f"{name} {row['step']:,} steps in {row['seconds'] / 60:.0f} minutes" for name, row in last.items()
    )
    return f"* σ = {said['sigma']:g}: {steps}; seed 0, run {said['run'][:16]}."


if __name__ == "__main__":
    sys.exit(main())
