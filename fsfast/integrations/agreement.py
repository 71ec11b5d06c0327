"""Whether an engine has the weights of the tower in whose place it is put, not only its shapes: plain features tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import fsfast
from fsfast.errors import EngineError
from fsfast.images.grid import to_grid_image
from fsfast.integrations.standing import StandingTower

# Mean cosine over the tokens of a photograph, or of its pooled vector. Where tower and engine compute in float32 only
# rounding keeps them apart; elsewhere a tower in bfloat16 and an engine in int8 stay above the bound, another layer and
# other weights do not.
LEAST_COSINE, LEAST_REDUCED = 0.9999, 0.95
PHOTOGRAPH = Path(fsfast.__file__).parent / "assets" / "cat.jpg"


def check_agreement(tower: StandingTower) -> float:
    """Return the mean cosine between the engine's plain features of a photograph and those of the model's own tower.

    Raises:
        EngineError: it is below LEAST_COSINE, or LEAST_REDUCED where one of them computes in a shorter type.
    """
    encoder = tower.encoder
    item = to_grid_image(PHOTOGRAPH, encoder.grid)
    mean, std = (np.array(values) for values in (encoder.manifest.mean, encoder.manifest.std))
    pixels = torch.from_numpy((item.pixels / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        plain = tower.plain_features(pixels.to(tower.device, tower.features_dtype))
    ours = torch.from_numpy(encoder.clean([item])).double()
    cosine = float(torch.cosine_similarity(plain.double().cpu(), ours, dim=-1).mean())
    exact = tower.features_dtype == torch.float32 and encoder.precision == "float32"
    least = LEAST_COSINE if exact else LEAST_REDUCED
    if not cosine >= least:
        raise EngineError(
            f"the engine {encoder.manifest.name!r} computes something else than the tower of this model: wanted a mean "
            f"cosine of at least {least} between their features, got {cosine:.5f}; export the engine from this model's "
            "weights (fsfast export RECIPE --encoder), or pass same_weights=False where other weights are meant"
        )
    return cosine
