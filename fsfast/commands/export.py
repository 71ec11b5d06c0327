"""Build an engine from published or trained networks, give one other precisions, or build its TensorRT plans.

Needs the extra [export].
"""

from __future__ import annotations

import argparse
from importlib import import_module

import fsfast
from fsfast.installation import clone

# What the exporter imports beside what fsfast itself needs.
NEEDS = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "mpmath")
# Everything behind the command's name is the exporter's: no option of it is ours.
PARSER = {"add_help": False, "prefix_chars": "\0"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    """Hand over to the exporter."""
    exporter = import_module(f"{package()}.__main__")
    exporter.exit_on_sigterm()
    code: int = exporter.main(args.arguments)
    return code


def package() -> str:
    """Return the name of the exporter's package: a wheel's part of fsfast, or the folder beside a clone's."""
    folder = clone()
    if folder and str(folder) not in fsfast.__path__:
        fsfast.__path__.append(str(folder))
    return "fsfast.export"
