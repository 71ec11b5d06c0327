"""Files to rehearse with: random weights under the names of published checkpoints, and two pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

import fsfast
from export.networks import Drawn
from export.recipe import Recipe, load_recipe
from train.checkpoint import write_atomically

_ASSETS = Path(fsfast.__file__).parent / "assets"
_PICTURES = (_ASSETS / "cat.jpg", _ASSETS / "examples" / "demo" / "digit-0.png")
# As open_clip's copies on the Hugging Face hub have it, the tower under this prefix.
_ENCODER, _PREFIX = "open_clip_model.safetensors", "visual."
_MAPPER, _BLOCKS = "mapper.safetensors", 3
# The command's, so that it ends soon.
_LITTLE = (
    "--sigma",
    "0.25",
    "--n0",
    "1,2",
    "-n",
    "4",
    "--runs",
    "1",
    "--attack-steps",
    "2",
    "--device",
    "cpu",
)


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        recipe: of the encoder, a name or a file.
        encoder: the folder of its weights.
        purifiers: file name → preset.
    """

    recipe: str
    encoder: str
    purifiers: Mapping[str, str]


REHEARSALS = {
    "small": Rehearsal(
        str(Path(__file__).parent / "small.toml"), "small-encoder", {"unet-tiny.pt": "unet-tiny"}
    ),
    "full": Rehearsal(
        "llava-1.5",
        "clip-vit-large-patch14-336",
        {"256x256_diffusion_uncond.pt": "adm256", "unet-light.pt": "unet-light"},
    ),
}


def write_files(rehearsal: Rehearsal, folder: Path) -> list[str]:
    """Write the files that are not there yet; return the command's arguments that name them."""
    recipe = replace(load_recipe(rehearsal.recipe), encoder_from=(), mapper_blocks=_BLOCKS)
    encoder, mapper, pictures = folder / rehearsal.encoder, folder / _MAPPER, folder / "images"
    _draw(recipe, "encoder", encoder / _ENCODER, _PREFIX)
    _draw(recipe, "mapper", mapper)
    arguments = ["--recipe", rehearsal.recipe, "--encoder", str(encoder), "--mapper", str(mapper)]
    for name, preset in rehearsal.purifiers.items():
        _draw(replace(recipe, purifier=preset), "purifier", folder / name)
        arguments += ["--purifier", str(folder / name)]
    pictures.mkdir(exist_ok=True)
    for picture in _PICTURES:
        shutil.copyfile(picture, pictures / picture.name)
    return [*arguments, "--images", str(pictures), *_LITTLE]


def _draw(recipe: Recipe, stage: str, path: Path, prefix: str = "") -> None:
    """Write random weights of a stage; they are the same every time."""
    if path.exists():
        return
    weights = {prefix + name: tensor for name, tensor in Drawn(recipe).load(stage).state_dict().items()}
    if path.suffix == ".pt":
        write_atomically(path, lambda temporary: torch.save(weights, temporary))
    else:
        write_atomically(path, lambda temporary: save_file(weights, temporary))
