"""The recipe of a small tower, which tests export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

_RECIPE = """
name = "{name}"
sigma = {sigma}
n0 = 2
[grid]
height = {size}
width = {size}
fit = "squash"
filter = "bicubic"
[normalise]
mean = {mean}
std = {std}
[encoder]
output = "{output}"
ln_post = {ln_post}
[encoder.config]
{config}
[weights]
encoder = ["somewhere"]
licence = "MIT"
"""


def small_recipe(
    config: Mapping[str, object],
    *,
    name: str = "small",
    sigma: float = 0.25,
    size: int = 14,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    output: str = "tokens",
    ln_post: bool = False,
) -> str:
    """Return the text of a recipe; `config` holds the fields of ViTConfig."""
    return _RECIPE.format(
        name=name,
        sigma=sigma,
        size=size,
        mean=list(mean),
        std=list(std),
        output=output,
        ln_post=json.dumps(ln_post),
        config="\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items()),
    )
