"""Command line: `fsfast export RECIPE --out DIR`, or in a clone `python -m export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import get_args

from fsfast.commands.parser import Parser, Several
from fsfast.errors import FsfastError

from . import which_weights
from .class_rows import add_arguments, class_files, read_classes
from .engine_recipe import check_known_in_torch, find_recipe
from .options import OUTPUTS, Options, check_compare, customise, describe, needs
from .recipe import Recipe, recipe_names
from .recipe_values import Store
from .results import results_of
from .stopping import run

# Commands of their own, and their modules; everything else is a recipe.
_COMMANDS = {
    "onnx": "from_onnx",
    "torch": "from_torch",
    "text": "from_text",
    "classes": "classes",
    "quantise": "quantise",
    "tensorrt": "tensorrt",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments name; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in _COMMANDS:
        command: Callable[[Sequence[str]], int] = import_module(
            f".{_COMMANDS[arguments[0]]}", __package__
        ).main
        return command(arguments[1:])
    args = _parser().parse_args(arguments)
    try:
        options = Options(
            args.encoder,
            args.purifier,
            args.mapper,
            args.output,
            args.sigma,
            args.n0,
            args.licence,
            args.random_weights,
            class_files(args),
            args.weights,
            args.store,
            args.name,
            args.card,
        )
        recipe = customise(find_recipe(args.recipe), options)
        check_known_in_torch(recipe)
        check_compare(recipe, args.compare)
        if args.dry_run:
            return _dry_run(recipe)
        # torch is imported only now, so that --help and a wrong recipe answer at once.
        from .build import build_engine

        build_engine(
            recipe,
            args.out or f"engines/{recipe.name}",
            force=args.force,
            micro_batch=args.micro_batch,
            compare=args.compare,
        )
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export: {error}", file=sys.stderr)
        return 2
    return 0


def _dry_run(recipe: Recipe) -> int:
    print(describe(recipe))
    if any(need.missing for need in needs(recipe)):
        return 1
    # Refuses a run that was made for another sigma, and files that hold no classes.
    results_of(recipe)
    if recipe.classes:
        read_classes(recipe.classes)
    return 0


def _run(text: str) -> str:
    """Read the folder of a run; a recipe is none."""
    if text in recipe_names() or text.endswith(".toml"):
        raise ValueError(f"wanted the folder of a run, got the recipe {text}")
    return text


def _parser() -> Parser:
    parser = Parser(
        prog="fsfast export",
        description="Build an engine from a recipe: ONNX graphs, weights, noise table, manifest.",
        epilog="fsfast inspect FILE_OR_DIR says what a checkpoint is, and which recipe takes it. More commands, each "
        "with --help: fsfast export onnx and fsfast export torch make an engine of an "
        "encoder of your own, fsfast export text makes directions of classes' names, fsfast export classes gives "
        "them to an engine, fsfast export quantise gives one int8 and bfloat16, fsfast export tensorrt builds its "
        "plans ahead of time.",
    )
    parser.add_argument(
        "recipe",
        help=f"a recipe ({', '.join(recipe_names())}), a .toml file, or an engine to which networks are added",
    )
    files = parser.add_argument_group(
        "networks", "for recipes whose weights come from files (docs/engines.md); --dry-run says which"
    )
    files.add_argument("--encoder", metavar="FILE_OR_DIR", help="the image tower's weights")
    files.add_argument(
        "--purifier",
        metavar="[PRESET=]FILE",
        help="a U-Net's or DRUNet's weights, recognised by their shapes or to be a preset's (adm256, unet-light, "
        "drunet-light); photo, the DRUNet that comes with fsfast; or none. With a U-Net the grid becomes 256×256",
    )
    files.add_argument("--mapper", metavar="FILE", help="a smoothness or low-rank mapper's weights, or none")
    which_weights.add_arguments(files)
    files.add_argument("--output", choices=list(OUTPUTS), help="of the encoder (default: the recipe's)")
    files.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="[STAGE=]TEXT",
        help="of the weights, for the manifest",
    )
    files.add_argument(
        "--random-weights",
        action="store_true",
        help="the right structure without training; marked everywhere. Networks are then named: --purifier "
        "adm256, --mapper 3 (blocks)",
    )
    files.add_argument(
        "--store",
        choices=get_args(Store),
        help="type of the weights in the engine's file: float16 rounds them once and halves the file; networks compute "
        "in float32 either way (default: the recipe's, or float32)",
    )
    files.add_argument("--dry-run", action="store_true", help="say what is missing and where to get it")
    parser.add_argument(
        "--sigma", type=float, help="noise level in [0,1] pixel units (default: the recipe's)"
    )
    parser.add_argument("--n0", type=int, help="default number of serving samples (default: the recipe's)")
    parser.add_argument("--name", help="of the engine (default: the recipe's, and the networks added to it)")
    parser.add_argument(
        "--card", metavar="FILE.md", help="what the model card ends with: data, training, measurements"
    )
    parser.add_argument("--out", metavar="DIR", help="directory to write (default: engines/<name>)")
    parser.add_argument("--force", action="store_true", help="replace an engine that stands there")
    parser.add_argument(
        "--compare",
        metavar="RUN",
        action=Several,
        item=_run,
        default=[],
        help="folders of runs with other seeds, for the model card",
    )
    parser.add_argument(
        "--micro-batch", type=int, default=4, help="measure parity at this batch size too (default 4)"
    )
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    run("fsfast export", main, "export")
