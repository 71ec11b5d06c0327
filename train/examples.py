"""A few test images with their attacked versions, as files that a demonstration can show."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from export.run_folder import CLASS_NAMES
from train.checkpoint import write_atomically, write_text
from train.data import Batch
from train.glyphs import TARGET

_COUNT = 6


def write_examples(folder: Path, test: Batch, attacked: Tensor) -> None:
    """Write the first six test images that show different digits, and an index.

    Nothing else decides which images are taken: not whether the encoder knows them, nor whether the attack
    or the certificate succeeds.

    Args:
        folder: receives digit-K.png and digit-K-attacked.png, and examples.json that lists them.
        test: the test images.
        attacked: [B, 3, S, S] grid levels, the same images after the attack on the plain encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = {int(label): index for index, label in reversed(list(enumerate(test.labels)))}
    listed = []
    for label, index in sorted(first.items(), key=lambda item: item[1])[:_COUNT]:
        name = f"digit-{CLASS_NAMES[label]}"
        files = {"image": f"{name}.png", "attacked": f"{name}-attacked.png"}
        for file, levels in zip(files.values(), (test.images[index], attacked[index]), strict=True):
            _write_png(folder / file, levels)
        listed.append({"name": name, **files, "label": CLASS_NAMES[label], "target": CLASS_NAMES[TARGET]})
    write_text(folder / "examples.json", json.dumps(listed, indent=1) + "\n")


def _write_png(path: Path, levels: Tensor) -> None:
    pixels = levels.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, "PNG"))
