"""Encoders from outside, as a graph or a module of one's own: what the command line says of them, and their recipe."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from fsfast.commands.parser import Parser
from fsfast.images.fits import Fit
from fsfast.images.grid import Grid
from fsfast.images.resampling import FILTERS

from . import class_rows, which_weights
from .options import Options, customise
from .recipe import Outside, Recipe
from .recipe_values import check_name

# What an output may be, and its axes.
LAYOUTS = {
    "tokens": ("M", "L", "D"),
    "pooled": ("M", "D"),
    "map": ("M", "D", "h", "w"),
    "map-last": ("M", "h", "w", "D"),
}
# Where nothing is said: four axes have their channels first, as ONNX's operators do.
_BY_AXES = {2: "pooled", 3: "tokens", 4: "map"}


def add_arguments(parser: Parser) -> None:
    """Add what every encoder from outside needs to be told."""
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--name", help="of the engine (default: of what is exported)")
    parser.add_argument(
        "--mean",
        required=True,
        type=_means,
        metavar="R,G,B",
        help="channel mean of its input, in [0,1] units",
    )
    parser.add_argument(
        "--std", required=True, type=_deviations, metavar="R,G,B", help="and standard deviation"
    )
    layouts = ", ".join(f"{name} [{', '.join(axes)}]" for name, axes in LAYOUTS.items())
    parser.add_argument(
        "--layout",
        choices=list(LAYOUTS),
        help=f"what its output is: {layouts}; a map's places become tokens (default: by the number of axes; of four, "
        "map)",
    )
    parser.add_argument("--size", type=_size, metavar="H,W", help="of its input, where it does not say one")
    parser.add_argument(
        "--sigma", type=float, default=0.25, help="noise level in [0,1] pixel units (default 0.25)"
    )
    parser.add_argument("--n0", type=int, default=4, help="default number of serving samples (default 4)")
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="how other sizes are put on the grid (default crop)",
    )
    parser.add_argument(
        "--filter", choices=list(FILTERS), default="bicubic", help="and by what (default bicubic)"
    )
    parser.add_argument(
        "--purifier",
        metavar="[PRESET=]FILE",
        help="a U-Net's or DRUNet's weights, or photo, as with recipes; with a U-Net the grid becomes 256×256",
    )
    parser.add_argument(
        "--mapper", metavar="FILE", help="a smoothness or low-rank mapper's weights for this output"
    )
    which_weights.add_arguments(parser)
    parser.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="[STAGE=]TEXT",
        help="of the weights, for the manifest",
    )
    parser.add_argument("--force", action="store_true", help="replace an engine that stands there")
    parser.add_argument(
        "--micro-batch", type=int, default=4, help="measure parity at this batch size too (default 4)"
    )
    class_rows.add_arguments(parser)


def input_size(
    shape: Sequence[int | None] | None, asked: tuple[int, int] | None, what: str
) -> tuple[int, int]:
    """Return the height and width of an input.

    Args:
        shape: as a graph says it, None for sizes that are free; None where it says nothing.
        asked: what the command line says.
        what: has this input, for messages.

    Raises:
        ValueError: it takes no pictures [M, 3, H, W]; its size is neither said nor given, or both and differently.
    """
    if shape is not None and (len(shape) != 4 or shape[1] not in (3, None)):
        raise ValueError(f"wanted {what} to take pictures [M, 3, H, W], got {['M', *shape[1:]]}")
    said = tuple(shape[2:]) if shape else (None, None)
    found = tuple(own or given for own, given in zip(said, asked or said, strict=True))
    if None in found:
        raise ValueError(f"{what} takes pictures of any size; choose one with --size H,W")
    if asked and asked != found:
        raise ValueError(f"{what} takes pictures of {found[0]}×{found[1]}, got --size {asked[0]},{asked[1]}")
    height, width = found
    return int(height or 0), int(width or 0)


def layout_of(shape: Sequence[str | int], asked: str | None) -> str:
    """Return what an output of this shape is.

    Args:
        shape: "M", then sizes.
        asked: what the command line says, or None.

    Raises:
        ValueError: it has not the axes of the layout that was asked for, or of any.
    """
    axes = len(shape)
    if asked is None and axes not in _BY_AXES:
        raise ValueError(
            f"wanted an output of 2, 3 or 4 axes, got {list(shape)}; choose another with --output"
        )
    layout = asked or _BY_AXES[axes]
    # Pooled maps keep two axes of one element.
    single = layout == "pooled" and axes > 2 and set(shape[2:]) == {1}
    if axes != len(LAYOUTS[layout]) and not single:
        raise ValueError(
            f"wanted {list(LAYOUTS[layout])} for the layout {layout}, got {list(shape)}; choose --layout"
        )
    return layout


def recipe_of(
    args: argparse.Namespace, name: str, size: tuple[int, int], features: tuple[int, int], layout: str
) -> Recipe:
    """Return the recipe of an engine around an encoder from outside.

    Args:
        args: parsed by a parser that has `add_arguments`.
        name: of the encoder.
        size: (height, width) of its input.
        features: (L, D) of its output.
        layout: of LAYOUTS.

    Raises:
        ValueError: options contradict each other, or are out of range.
    """
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-")[:64] if args.name is None else args.name
    check_name(name, "--name")
    tokens, dim = features
    recipe = Recipe(
        name=name,
        sigma=args.sigma,
        n0=args.n0,
        grid=Grid(*size, args.fit, args.filter),
        mean=args.mean,
        std=args.std,
        purifier=None,
        encoder=name,
        output="pooled" if layout == "pooled" else "tokens",
        ln_post=False,
        mapper_blocks=None,
        run=None,
        random_seed=0,
        licence="",
        encoder_from=(name,),
        outside=Outside(size, tokens, dim),
    )
    options = Options(
        purifier=args.purifier,
        mapper=args.mapper,
        licences=args.licence,
        classes=class_rows.class_files(args),
        weights=args.weights,
    )
    changed = customise(recipe, options)
    return replace(changed, name=name) if args.name is not None else changed


def _numbers(text: str, low: float) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) != 3 or not all(math.isfinite(x) and low <= x <= 1000 for x in found):
        more = f" of at least {low:g}" if low > 0 else ""
        raise argparse.ArgumentTypeError(f"wanted three numbers{more} such as 0.5,0.5,0.5, got {text!r}")
    return found


def _means(text: str) -> tuple[float, ...]:
    return _numbers(text, -1000)


def _deviations(text: str) -> tuple[float, ...]:
    return _numbers(text, 1e-6)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,3}),([1-9]\d{0,3})", text)
    if not found or max(map(int, found.groups())) > 4096:
        raise argparse.ArgumentTypeError(f"wanted height and width in 1…4096 such as 224,224, got {text!r}")
    return int(found[1]), int(found[2])
