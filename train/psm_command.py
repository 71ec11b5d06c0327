"""`python -m train psm`: purifier and mapper for any encoder, on a folder of images."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch

from export import which_weights
from export.engine_recipe import find_recipe, is_engine
from export.options import OUTPUTS, PURIFIERS_FROM, Options, customise
from export.recipe import Recipe, load_recipe
from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from train.loop import Place
from train.place import choose_device, prepare, set_threads
from train.psm import train_psm
from train.psm_setting import PsmConfig


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    options = _parser().parse_args(arguments)
    try:
        recipe = _recipe(options)
        config = _config(options, recipe)
        if not options.data.is_dir():
            raise ValueError(f"wanted a folder of images, found none at {options.data}")
        set_threads(options.threads)
        device = choose_device(options.device)
        prepare(options.out, options.resume)
        place = Place(options.out, checkpoint_seconds=60 * options.checkpoint_minutes)
        train_psm(config, recipe, options.data, place, device, options.module, options.held_out)
    except (FsfastError, ValueError, OSError, FloatingPointError) as error:
        print(f"python -m train psm: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        print(
            f"python -m train psm: {reason}; use --checkpointing, --bf16, smaller batches or fewer --noises",
            file=sys.stderr,
        )
        return 2
    made_of = f"torch {options.module}" if options.module else options.recipe or options.encoder
    print(f"{options.out}: weights for fsfast export {made_of}, sigma {recipe.sigma:g}")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    """What is trained behind: a recipe and weights, or an engine or a recipe that has them, in the place of weights."""
    encoder = options.encoder
    if options.recipe is None:
        if encoder is None or not (is_engine(encoder) or encoder.endswith(".toml")):
            raise ValueError(
                f"wanted --recipe beside the encoder's weights, or as --encoder an engine or a recipe (.toml) with a "
                f"checkpoint; got --encoder {encoder}"
            )
        recipe, encoder = find_recipe(encoder), None
    else:
        recipe = load_recipe(options.recipe)
    # A new one is trained.
    files = {stage: path for stage, path in recipe.files.items() if stage != "mapper"}
    recipe = replace(recipe, files=files)
    given = Options(encoder, options.purifier, None, options.output, options.sigma, weights=options.weights)
    recipe = customise(recipe, given)
    checkpoints = [stage for stage, path in recipe.files.items() if path != recipe.engine]
    recipe = replace(recipe, weights=which_weights.by_stage(options.weights, checkpoints, recipe.weights))
    if not recipe.encoder_from:
        raise ValueError(
            f"recipe {recipe.name} takes all weights from elsewhere; choose one for files, such as clip-l14, or an "
            "engine"
        )
    if "encoder" not in recipe.files:
        raise ValueError(
            f"recipe {recipe.name} wants the encoder's weights with --encoder FILE_OR_DIR; get them as "
            f"{recipe.encoder_from[0]}"
        )
    return recipe


def _config(options: argparse.Namespace, recipe: Recipe) -> PsmConfig:
    config = PsmConfig(seed=options.seed, bf16=options.bf16, checkpointing=options.checkpointing)
    steps = config.purifier.steps if options.purifier_steps is None else options.purifier_steps
    counts = (options.mapper_steps, options.purifier_batch, options.mapper_batch, options.noises)
    if min(counts) < 1 or steps < 0:
        raise ValueError(
            "wanted steps, batches and noises of at least 1; --purifier none leaves the purifier out, "
            "--purifier-steps 0 keeps it as its file has it"
        )
    if not (math.isfinite(options.checkpoint_minutes) and options.checkpoint_minutes >= 0):
        raise ValueError(f"wanted --checkpoint-minutes of at least 0, got {options.checkpoint_minutes}")
    if not 0 <= options.held_out < 1:
        raise ValueError(f"wanted --held-out in [0, 1), got {options.held_out}")
    if recipe.engine is not None and recipe.files.get("purifier") == recipe.engine:
        if options.purifier_steps:
            raise ValueError(
                f"the purifier of {recipe.engine} stays as it is, got --purifier-steps {steps}; leave it out, or "
                "choose what is trained with --purifier"
            )
        steps = 0
    return replace(
        config,
        purifier=replace(config.purifier, steps=steps, batch=options.purifier_batch),
        mapper=replace(config.mapper, steps=options.mapper_steps, batch=options.mapper_batch),
        blocks=recipe.mapper_blocks or config.blocks,
        noises=options.noises,
    )


def _parser() -> Parser:
    default = PsmConfig()
    parser = Parser(prog="python -m train psm", description=__doc__)
    parser.add_argument(
        "--recipe", help="of fsfast export, such as clip-l14 or siglip-so400m-384; an engine needs none"
    )
    parser.add_argument(
        "--encoder",
        metavar="FILE_OR_DIR",
        help="the frozen image tower's weights; or, without --recipe, an engine, or a recipe file with a checkpoint",
    )
    parser.add_argument(
        "--module",
        metavar="MODULE:FACTORY",
        help="for an engine whose encoder came as an ONNX graph: the network in torch, as for fsfast export torch",
    )
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="images, in subfolders or not"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the images, not trained on: log.jsonl says at the end what the networks do there (default 0)",
    )
    parser.add_argument(
        "--purifier",
        metavar="PRESET[=FILE]",
        help=f"{', '.join(PURIFIERS_FROM)}: from new weights, or from a file; photo: from the one that comes with "
        "fsfast; none (default, but for an engine that has one) trains the mapper alone",
    )
    which_weights.add_arguments(parser)
    parser.add_argument("--output", choices=list(OUTPUTS), help="of the encoder (default: the recipe's)")
    parser.add_argument(
        "--sigma", type=float, help="noise level in [0,1] pixel units (default: the recipe's)"
    )
    for stage in ("purifier", "mapper"):
        schedule = getattr(default, stage)
        parser.add_argument(
            f"--{stage}-steps",
            type=int,
            default=schedule.steps if stage == "mapper" else None,
            help=f"default {schedule.steps}"
            + ("; 0 keeps PRESET=FILE as it is" if stage == "purifier" else ""),
        )
        parser.add_argument(
            f"--{stage}-batch", type=int, default=schedule.batch, help=f"default {schedule.batch}"
        )
    parser.add_argument(
        "--noises", type=int, default=default.noises, help="per image, for the mapper (default 8)"
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; weights stay float32")
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="recompute the purifier's activations: less memory, more time",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="between two checkpoints (default 10); one is four times the size of the weights",
    )
    parser.add_argument("--seed", type=int, default=0, help="of order, new weights and noise (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: all cores)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/psm"), help="folder of the run (default: runs/psm)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out where it was stopped"
    )
    return parser
