"""`python -m train photo`: the photo engine's purifier, behind the EfficientNet-Lite0 of its recipe."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from export.recipe import load_recipe
from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from fsfast.files import file_sha256
from fsfast.models import load_efficientnet
from train.loop import Place
from train.photos.crops import RandomCrops
from train.photos.purifier import FrozenClassifier, PurifierConfig, train_purifier
from train.place import choose_device, prepare, set_threads

RECIPE = "efficientnet-lite0"
LOSSES = ("pooled", "tokens", "maps", "classes", "pixels")


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    options = _parser().parse_args(arguments)
    try:
        set_threads(options.threads)
        device = choose_device(options.device)
        config = _config(options)
        prepare(options.out, options.resume)
        place = Place(options.out, checkpoint_seconds=120.0)
        encoder = frozen_classifier(options.encoder)
        start = (file_sha256(options.start), load_file(options.start)) if options.start else None
        data = RandomCrops(options.data, options.seed, device)
        train_purifier(config, data, encoder, place, file_sha256(options.encoder), start)
    except (FsfastError, ValueError, OSError, FloatingPointError) as error:
        print(f"python -m train photo: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: a purifier for sigma {config.sigma:g}")
    return 0


def frozen_classifier(path: Path) -> FrozenClassifier:
    """Load the recipe's encoder with its classifier.

    Raises:
        CheckpointError: the file cannot be used.
        ValueError: it has no classifier.
    """
    recipe, loaded = load_recipe(RECIPE), load_efficientnet(path)
    if loaded.classifier is None:
        raise ValueError(f"wanted the encoder's weights with their classifier, got {path} without one")
    features = loaded.module.features("tokens")
    return FrozenClassifier(features, recipe.mean, recipe.std, *loaded.classifier)


def _config(options: argparse.Namespace) -> PurifierConfig:
    config = PurifierConfig(options.sigma, options.seed, bf16=options.bf16, **dict(options.loss))
    least = 0 if options.start else 1
    if options.reconstruction_steps < least or options.robustness_steps < 1:
        raise ValueError(
            f"wanted at least 1 step of each part (0 of the reconstruction with --start), got "
            f"{options.reconstruction_steps} and {options.robustness_steps}"
        )
    steps = {"reconstruction": options.reconstruction_steps, "robustness": options.robustness_steps}
    return replace(
        config, **{name: replace(getattr(config, name), steps=count) for name, count in steps.items()}
    )


def _loss(text: str) -> tuple[str, float]:
    """Read NAME=WEIGHT."""
    name, _, weight = text.partition("=")
    if name not in LOSSES:
        raise argparse.ArgumentTypeError(f"wanted one of {', '.join(LOSSES)} with its weight, got {text!r}")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"wanted a weight from 0 to 100, got {text!r}")
    return name, value


def _parser() -> Parser:
    parser = Parser(prog="python -m train photo", description=__doc__)
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="folder that python -m train photo-data made"
    )
    parser.add_argument(
        "--encoder", required=True, type=Path, metavar="FILE", help=f"weights of the recipe {RECIPE}"
    )
    parser.add_argument(
        "--sigma", type=float, default=0.25, help="noise level in [0,1] pixel units (default 0.25)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="purifier.safetensors of another sigma to begin with (default: new weights)",
    )
    for part in ("reconstruction", "robustness"):
        steps = getattr(PurifierConfig(0.25), part).steps
        parser.add_argument(f"--{part}-steps", type=int, default=steps, help=f"default {steps}")
    parser.add_argument(
        "--loss",
        type=_loss,
        action="append",
        default=[],
        metavar="NAME=WEIGHT",
        help=f"weight of one of the robustness losses: {', '.join(LOSSES)}; may be repeated",
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; weights stay float32")
    parser.add_argument("--seed", type=int, default=0, help="of crops, new weights and noise (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("runs/photo"), help="folder (default: runs/photo)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out where it was stopped"
    )
    return parser
