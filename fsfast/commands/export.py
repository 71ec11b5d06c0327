"""Build an engine from published or trained networks or an ONNX file, give one other precisions, or build its plans.

Needs the extra [export].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NoReturn

import fsfast
from fsfast.installation import clone

# What the exporter imports beside what fsfast itself needs.
NEEDS: tuple[str, ...] = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "mpmath")
if sys.version_info < (3, 11):
    NEEDS += ("tomli",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the exporter parses what follows the command's name."""


def run(args: argparse.Namespace) -> NoReturn:
    """Hand over to the exporter, which exits."""
    start: Callable[..., NoReturn] = import_module(f"{package()}.stopping").run
    main = import_module(f"{package()}.__main__").main
    start("fsfast export", partial(main, args.arguments), "export")


def package() -> str:
    """Return the name of the exporter's package: a wheel's part of fsfast, or the folder beside a clone's."""
    folder = clone()
    if folder and str(folder) not in fsfast.__path__:
        fsfast.__path__.append(str(folder))
    return "fsfast.export"
