"""`python -m train photo-mapper`: a low-rank mapper behind the photo engine's purifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from export.networks import encoder_record
from export.options import Options, customise
from export.published import Published
from export.recipe import Recipe, load_recipe
from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from fsfast.models import Denoiser, OneStepPurifier
from train.checkpoint import save_weights
from train.photos.features import Extraction, training_crops
from train.photos.mapper import fit, write_table
from train.photos.run import RECIPE, frozen_classifier
from train.place import set_threads


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0 done, 1 no mapper is of any worth, 2 wrong use."""
    options = _parser().parse_args(arguments)
    try:
        set_threads(options.threads)
        if options.noises < 1:
            raise ValueError(f"wanted at least one noise of a crop, got {options.noises}")
        given = Options(str(options.encoder), options.purifier, output=options.output, sigma=options.sigma)
        recipe = customise(load_recipe(RECIPE), given)
        crops, extraction = (
            training_crops(options.data),
            _extraction(recipe, options.noises, options.seed, options.bf16),
        )
        features = extraction.of(crops, options.out / "features.safetensors")
        if recipe.output == "pooled":
            features = features.pooled()
        mapper, rows = fit(features, extraction.encoder.rows)
        write_table(options.out / "mapper.csv", recipe.sigma, recipe.output, features, rows)
        if mapper is None:
            print(f"{options.out}: no mapper leaves centred score, cosine and classes as good as they were")
            return 1
        about = {"output": recipe.output_name, "encoder": encoder_record(recipe)}
        path = options.out / "mapper.safetensors"
        save_weights(path, mapper.state_dict(), extraction.digest(crops), recipe.sigma, about)
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m train photo-mapper: {error}", file=sys.stderr)
        return 2
    print(f"{path}: a mapper of rank {mapper.rank} for sigma {recipe.sigma:g}")
    return 0


def _extraction(recipe: Recipe, noises: int, seed: int, bf16: bool) -> Extraction:
    source = Published(recipe)
    purifier = OneStepPurifier(cast(Denoiser, source.load("purifier")), recipe.sigma)
    source.load("encoder")
    weights = [digest for stage in ("encoder", "purifier") for digest in source.hashes(stage)]
    encoder = frozen_classifier(recipe.files["encoder"])
    return Extraction(purifier, encoder, recipe.sigma, recipe.grid, noises, seed, bf16, weights)


def _parser() -> Parser:
    parser = Parser(prog="python -m train photo-mapper", description=__doc__)
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="folder that python -m train photo-data made"
    )
    parser.add_argument(
        "--encoder", required=True, type=Path, metavar="FILE", help=f"weights of the recipe {RECIPE}"
    )
    parser.add_argument(
        "--purifier",
        default="photo",
        metavar="FILE",
        help="purifier.safetensors of a run, or an engine that has one (default: photo, which comes with fsfast)",
    )
    parser.add_argument(
        "--sigma", type=float, default=0.25, help="noise level in [0,1] pixel units (default 0.25)"
    )
    parser.add_argument(
        "--output", choices=("pooled", "tokens"), default="pooled", help="of the encoder (default: pooled)"
    )
    parser.add_argument("--noises", type=int, default=4, help="of each crop (default 4)")
    parser.add_argument("--bf16", action="store_true", help="compute the networks in bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: all cores)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/photo-mapper"),
        help="folder (default: runs/photo-mapper); features that an earlier run left there are used again",
    )
    return parser
