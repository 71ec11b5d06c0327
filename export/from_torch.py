"""Make an engine of a torch module of one's own: `fsfast export torch MODULE:FACTORY --out DIR --size H,W …`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsfast.commands.parser import Parser
from fsfast.engine.writer import check_target
from fsfast.errors import FsfastError, brief

from .outside import add_arguments
from .stopping import run

if TYPE_CHECKING:
    import torch


def main(argv: Sequence[str] | None = None) -> int:
    """Make the engine that the arguments describe; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        check_target(args.out, args.force)
        if args.size is None:
            raise ValueError("wanted --size H,W: a module does not say what pictures it takes")
        # torch and onnx are imported only now, so that --help and wrong arguments answer at once.
        import torch

        from .graph import export_file
        from .onnx_file import read_onnx
        from .outside_source import build_outside

        module = made_by(args.factory)
        with tempfile.TemporaryDirectory(prefix="fsfast-export-") as folder:
            path = Path(folder) / "encoder.onnx"
            print(f"{args.factory}: exporting")
            export_file(module, torch.rand(2, 3, *args.size), path)
            file = read_onnx(path)
            if len(file.outputs) != 1:
                raise ValueError(f"wanted {args.factory} to make one tensor, got {len(file.outputs)}")
            ends = file.inputs[0], file.outputs[0]
            origin = f"torch {torch.__version__}: {args.factory}"
            build_outside(args, file, ends, module, args.factory.rpartition(":")[2], origin)
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export torch: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="fsfast export torch",
        description="Make an engine of a torch module of your own: your code is imported to export it, and never "
        "again. The engine keeps its graph, as one of an ONNX file does.",
    )
    parser.add_argument(
        "factory",
        metavar="MODULE:FACTORY",
        help="a function without arguments, from the current folder or an installed package, that returns the module",
    )
    add_arguments(parser)
    return parser


def made_by(factory: str) -> torch.nn.Module:
    """Return what the user's own function makes, in evaluation mode.

    Raises:
        ValueError: there is no such function, it fails, or makes something else.
    """
    from torch import nn

    place, colon, name = factory.partition(":")
    if not (place and colon and name):
        raise ValueError(f"wanted MODULE:FACTORY such as networks:encoder, got {factory!r}")
    # As `python -m` finds modules.
    sys.path.insert(0, "")
    try:
        make: Any = getattr(import_module(place), name)
        module = make()
    # The user's code may raise anything.
    except Exception as error:
        raise ValueError(f"{factory}: {type(error).__name__}: {brief(error)}") from None
    finally:
        sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise ValueError(f"wanted {factory} to return a torch.nn.Module, got {type(module).__name__}")
    return module.eval().requires_grad_(False)


if __name__ == "__main__":
    run("fsfast export torch", main, "export")
