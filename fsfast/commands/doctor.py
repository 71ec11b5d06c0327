"""Say what works on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version

from fsfast import __version__
from fsfast.errors import BackendUnavailable, FsfastError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 when no engine can be served."""
    findings = examine()
    if args.json:
        print(json.dumps(findings, indent=1))
    else:
        for part, (usable, text) in findings.items():
            print(f"{'ok  ' if usable else 'no  '} {part + ':':<20}{text}")
    runs = findings["onnxruntime"][0] or findings["openvino"][0]
    return 0 if findings["kernels"][0] and runs and findings["demo engine"][0] else 1


def examine() -> dict[str, tuple[bool, str]]:
    """Return part → (usable, remark)."""
    from fsfast.backends import available_threads, device_class

    findings = {
        "fsfast": (True, f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        "processor": (True, f"{device_class()}, {available_threads()} usable"),
        "kernels": _kernels(),
        "onnxruntime": _backend("onnxruntime"),
        "openvino": _backend("openvino"),
        "demo engine": _engine(),
        "torch": _package("torch", "only needed to export engines: pip install 'fsfast[export]'"),
    }
    findings["backend auto"] = _auto()
    findings["tensorrt"] = _tensorrt()
    findings["cuda"] = _cuda()
    return findings


def _kernels() -> tuple[bool, str]:
    try:
        from fsfast.kernels import cpu  # noqa: F401
    except BackendUnavailable as error:
        return False, str(error)
    return True, "C++ extension loads"


def _backend(name: str) -> tuple[bool, str]:
    from fsfast.backends import load_backend

    try:
        backend = load_backend(name)
    except FsfastError as error:
        return False, str(error)
    if problems := backend.problems():
        return False, "; ".join(problems)
    return True, f"{backend.version()}, computes in {' and '.join(backend.arithmetics())}"


def _auto() -> tuple[bool, str]:
    """Say what backend="auto" means for the built-in engine; nothing is measured here."""
    from fsfast.choice import expected
    from fsfast.engine import load_engine

    try:
        engine = load_engine("demo")
        return True, expected(engine, engine.manifest.precisions[0])
    except FsfastError as error:
        return False, str(error)


def _tensorrt() -> tuple[bool, str]:
    """Never usable for serving: no plan has run on a GPU yet."""
    from fsfast.backends import tensorrt

    found = tensorrt.problems() or [f"{tensorrt.version()} and a GPU are there"]
    return False, "; ".join(["experimental, builds plans only (docs/tensorrt.md)", *found])


def _cuda() -> tuple[bool, str]:
    """Whether device="cuda" can be asked for, and if not, why."""
    try:
        from fsfast.backends import torch
    except BackendUnavailable as error:
        return False, str(error)
    if found := torch.problems():
        return False, "; ".join(found)
    return True, f"{torch.device_class(torch.cuda_device('cuda'))}, torch {torch.version()}"


def _engine() -> tuple[bool, str]:
    from fsfast.engine import load_engine

    try:
        engine = load_engine("demo")
    except FsfastError as error:
        return False, str(error)
    return True, f"digest {engine.digest[:16]}…"


def _package(name: str, remark: str) -> tuple[bool, str]:
    try:
        return True, version(name)
    except PackageNotFoundError:
        return False, f"not installed; {remark}"
