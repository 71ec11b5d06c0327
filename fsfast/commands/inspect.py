"""Say what a file of weights is, what is missing, and which command makes an engine of it.

A checkpoint is known by its names, its shapes and the files beside it; no weights are read, and nothing is run.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fsfast.commands.export import package
from fsfast.commands.findings import lines, possessive
from fsfast.errors import BackendUnavailable, CheckpointError, FsfastError
from fsfast.file_kind import CERTIFICATE, FEATURES, MANIFEST, ONNX, FileKind, recognise_file
from fsfast.installation import pip_install_extras
from fsfast.models.averages import Weights

if TYPE_CHECKING:
    from fsfast.models import Inspection

_OF_A_RUN = ("encoder", "purifier", "mapper")
_REMEDIES = {
    CERTIFICATE: "fsfast verify replays it",
    FEATURES: "fsfast.SmoothedFeatures.load reads it",
    MANIFEST: "inspect the directory that it lies in",
}
# A checkpoint may begin as these do.
_PERHAPS_WEIGHTS = ("a safetensors file", "a zip archive", "text")
_ACTIVATIONS = {
    "CLIP": "quick_gelu for OpenAI's and all that began with them (FARE, TeCoA, LLaVA), gelu for most of LAION's",
    "SigLIP": "gelu_tanh as its authors have it, or gelu as timm has it",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "path",
        metavar="FILE_OR_DIR",
        help="weights, an index of shards, a directory with either, or any other file",
    )
    parser.add_argument("--heads", type=int, metavar="N", help="attention heads, where no file says them")
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu", "gelu_tanh"],
        help="of a tower's MLPs, where no file says it",
    )
    parser.add_argument(
        "--weights",
        choices=get_args(Weights),
        help="of a file that holds raw weights and their average over training",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what a path is; exit code 1 where no engine can be made of it."""
    path = Path(args.path)
    if not path.exists():
        raise FsfastError(f"{path}: no such file or directory")
    findings = {"path": args.path} | (_directory(path) or _other_file(path) or _checkpoint(args))
    if args.json:
        print(json.dumps(findings, indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(findings)))
    return 0 if findings["command"] else 1


def _directory(path: Path) -> dict[str, Any] | None:
    """What a directory is that is no checkpoint."""
    if (path / "engine.json").is_file():
        return _named("an engine of fsfast", shlex.join(["fsfast", "info", str(path)]))
    stages = [stage for stage in _OF_A_RUN if (path / f"{stage}.safetensors").is_file()]
    if not stages or (path / "config.json").exists():
        return None
    words = [word for stage in stages for word in (f"--{stage}", str(path))]
    command = shlex.join(["fsfast", "export", "RECIPE", *words, "--out", "DIR"])
    return _named(f"the folder of a training run, with {' and '.join(stages)}", command)


def _other_file(path: Path) -> dict[str, Any] | None:
    """What a file is that holds no weights, as far as its first bytes tell."""
    kind = recognise_file(path)
    if kind is None or (kind.what.startswith(_PERHAPS_WEIGHTS) and not kind.remedy):
        return None
    if kind is ONNX:
        words = ["fsfast", "export", "onnx", str(path), "--mean", "R,G,B", "--std", "R,G,B", "--out", "DIR"]
        return _named(kind.what, shlex.join(words))
    return _named(kind.what, None, f"wanted weights, got {kind.what}" + _remedy(kind))


def _remedy(kind: FileKind) -> str:
    remedy = "fsfast encode takes it" if kind.image else _REMEDIES.get(kind, kind.remedy)
    return f"; {remedy}" if remedy else ""


def _named(what: str, command: str | None, problem: str | None = None) -> dict[str, Any]:
    return {"what": what, "problem": problem, "command": command}


def _checkpoint(args: argparse.Namespace) -> dict[str, Any]:
    from fsfast.models import inspect_checkpoint

    try:
        found = inspect_checkpoint(
            args.path, heads=args.heads, activation=args.activation, weights=args.weights
        )
    except CheckpointError as error:
        return _named("no weights that can be read", None, str(error).removeprefix(f"{args.path}: "))
    record = asdict(found) | {
        "what": _what(found),
        "unknown": {name: _flag(found, name) for name in found.unknown},
    }
    # What is unknown has placeholders there.
    del record["config"], record["path"]
    suggested = {"command": None} if found.problem else _suggested(found)
    return record | suggested


def _what(found: Inspection) -> str:
    names = f", in {possessive(found.layout)} names" if found.layout else ""
    under = f" under {found.prefix!r}" if found.prefix else ""
    return f"{found.family} {found.kind}".strip() + names + under


def _flag(found: Inspection, name: str) -> str:
    """How the caller says a field that nobody else says."""
    if name == "activation":
        return f"say --activation {_ACTIVATIONS.get(found.family, 'NAME')}"
    config = found.config
    assert config is not None
    size = f"width {config.width}, {config.layers} blocks and MLPs of {config.hidden}"
    return f"no published {found.family} has {size}; say --heads N"


def _suggested(found: Inspection) -> dict[str, Any]:
    try:
        suggestion = import_module(f"{package()}.suggestion").suggest(found)
    except ImportError as error:
        raise BackendUnavailable(f"{error}; install it with: {pip_install_extras('export')}") from None
    return asdict(suggestion)
