"""Engines of one small tower of CLIP, by export's own command, for each layer that a host may read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from export.__main__ import main
from tests.models.published import NARROW, tower
from tests.small_recipe import small_recipe

SIZE = NARROW.image_size
WEIGHTS = tower(NARROW)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def narrow_engine(folder: Path, output: str) -> Path:
    """Export the tower with one of the outputs of `fsfast export --output`."""
    record = NARROW.to_record()
    del record["quick_gelu"]
    record["activation"] = NARROW.activation
    recipe, weights, path = folder / "narrow.toml", folder / "narrow.safetensors", folder / "engine"
    recipe.write_text(small_recipe(record, name="narrow", size=SIZE, mean=MEAN, std=STD))
    save_file(WEIGHTS, weights)
    assert main([str(recipe), "--encoder", str(weights), "--output", output, "--out", str(path)]) == 0
    return path
