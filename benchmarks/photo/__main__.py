"""Classify the labelled photographs: `python -m benchmarks.photo --data DIR --encoder FILE`.

DIR is a folder of `python -m train photo-data`, FILE efficientnet-lite0-57934424.pth (docs/engines.md). Writes
benchmarks/results/photo/labelled.csv and accuracy.csv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import RESULTS
from benchmarks.photo.accuracy import HEADS, answers
from benchmarks.photo.labels import find_files, read_labels
from export.recipe import load_recipe
from fsfast.errors import FsfastError

RECIPE = "efficientnet-lite0"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "photo")
    options = parser.parse_args(argv)
    try:
        labels = read_labels()
        found = list(answers(load_recipe(RECIPE), options.encoder, find_files(options.data, labels)))
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m benchmarks.photo: {error}", file=sys.stderr)
        return 2
    # The recipe's preprocessing comes first.
    served = next(each for each in found if each.head == HEADS[1])
    pictures = [
        {
            "package": each.package,
            "name": each.name,
            "licence": each.licence,
            "classes": "; ".join(each.classes),
            "answer": answer,
            "right": right,
        }
        for each, answer, right in zip(labels, served.classes, served.right(labels), strict=True)
    ]
    exact = {each.preprocessing: each.classes for each in found if each.head == HEADS[0]}
    accuracy = [
        {
            "preprocessing": each.preprocessing,
            "head": each.head,
            "right": sum(each.right(labels)),
            "as_with_biases": sum(map(str.__eq__, each.classes, exact[each.preprocessing])),
            "pictures": len(labels),
        }
        for each in found
    ]
    write_table(options.out / "labelled.csv", pictures)
    write_table(options.out / "accuracy.csv", accuracy)
    for row in accuracy:
        print(f"{row['right']} of {row['pictures']} right: {row['preprocessing']}, {row['head']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
