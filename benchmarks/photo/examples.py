"""The photographs that come with the package: `python -m benchmarks.photo.examples --data DIR --encoder FILE`.

DIR is a folder of `python -m train photo-data`. Held-out photographs in the public domain on the photo engine's grid,
each also after an attack on the encoder alone, ℓ∞ 16/255, towards the features of the next one. Writes
fsfast/assets/examples/photo/.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.photo.attacks import RADIUS, STEP, STEPS
from benchmarks.photo.labels import find_files, read_labels
from export.recipe import load_recipe
from fsfast.errors import FsfastError
from fsfast.files import write_whole
from fsfast.images.grid import to_grid_image
from fsfast.report.examples import FOLDER
from train.attack import Attack
from train.images import levels_of
from train.photos.run import RECIPE, frozen_classifier

# The label's class → name. Chosen for their licence and their subject alone, before the purifier was trained.
CHOSEN = {"goldfish": "goldfish", "screwdriver": "screwdriver", "bucket": "bucket"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo.examples", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FOLDER / "photo")
    options = parser.parse_args(argv)
    try:
        write(options.data, options.encoder, options.out)
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m benchmarks.photo.examples: {error}", file=sys.stderr)
        return 2
    return 0


def write(data: Path, encoder: Path, out: Path) -> None:
    """Write pictures and index; raises as `find_files` and `frozen_classifier`."""
    grid, network = load_recipe(RECIPE).grid, frozen_classifier(encoder)

    def unit(levels: Tensor) -> Tensor:
        return F.normalize(network(levels / 255.0)[1].mean(1), dim=-1)

    labels = [each for each in read_labels() if "public-domain" in each.licence]
    chosen = [next(each for each in labels if each.classes[0] == name) for name in CHOSEN]
    images = [to_grid_image(path, grid) for path in find_files(data, chosen)]
    levels = list(map(levels_of, images))
    listed = []
    for i, (label, name) in enumerate(CHOSEN.items()):
        following = (i + 1) % len(CHOSEN)
        with torch.no_grad():
            towards = unit(levels[following])
        attacked = Attack(RADIUS, STEP, STEPS).run(
            levels[i], lambda x, _, t=towards: (unit(x) * t).sum(-1), name
        )
        files = {"image": f"{name}.png", "attacked": f"{name}-attacked.png"}
        for file, picture in zip(files.values(), (levels[i], attacked), strict=True):
            write_whole(out / file, _png(picture))
        listed.append({"name": name, **files, "label": label, "target": list(CHOSEN)[following]})
    write_whole(out / "examples.json", (json.dumps(listed, indent=1) + "\n").encode())


def _png(levels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels[0].permute(1, 2, 0).to(torch.uint8).numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
