"""Say what works on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fsfast._version import __version__
from fsfast.commands import export
from fsfast.errors import BackendUnavailable, FsfastError
from fsfast.installation import clone, pip_install_extras
from fsfast.integrations.hosts import HOSTS, host


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--stack", metavar="NAME", help=f"of a library or server that embeds the encoder: {', '.join(HOSTS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 when no engine can be served."""
    findings = examine() if args.stack is None else host(args.stack).findings()
    if args.json:
        print(json.dumps(findings, indent=1))
    else:
        width = max(22, *(len(part) + 2 for part in findings))
        for part, (usable, text) in findings.items():
            print(f"{'ok  ' if usable else 'no  '} {part + ':':<{width}}{text}")
    if args.stack is not None:
        return 0 if all(usable for usable, _ in findings.values()) else 1
    runs = findings["onnxruntime"][0] or findings["openvino"][0]
    return 0 if findings["kernels"][0] and runs and findings["demo engine"][0] else 1


def examine() -> dict[str, tuple[bool, str]]:
    """Return part → (usable, remark)."""
    findings = {
        "fsfast": (True, _fsfast()),
        "processor": _processor(),
        "precisions": _precisions(),
        "kernels": _kernels(),
        "onnxruntime": _backend("onnxruntime"),
        "openvino": _backend("openvino"),
        "demo engine": _engine(),
        "torch": _package("torch", "only needed on a GPU and to export engines"),
        "export": _export(),
    }
    findings["backend auto"] = _auto()
    return findings | _cuda()


def _fsfast() -> str:
    where = f"the clone in {folder}" if (folder := clone()) else f"installed in {Path(__file__).parents[2]}"
    return f"{__version__}, {where}, Python {platform.python_version()}, {platform.platform()}"


def _processor() -> tuple[bool, str]:
    from fsfast.machine import available_threads, device_class, processor

    try:
        return True, f"{processor()}, {device_class()}, {available_threads()} usable"
    except BackendUnavailable as error:
        return False, str(error)


def _precisions() -> tuple[bool, str]:
    from fsfast.runtime.advice import native_precisions

    try:
        native = native_precisions()
    except BackendUnavailable as error:
        return False, str(error)
    if native:
        return True, f"this processor has instructions for {', '.join(native)} beside float32"
    return (
        True,
        "this processor has instructions for float32 only; int8 may gain a little: fsfast bench tells",
    )


def _kernels() -> tuple[bool, str]:
    try:
        from fsfast.kernels import cpu
    except BackendUnavailable as error:
        return False, str(error)
    return True, f"{cpu.instruction_set()}, of {', '.join(cpu.INSTRUCTION_SETS)}"


def _backend(name: str) -> tuple[bool, str]:
    from fsfast.backends.cpu import load_backend

    try:
        backend = load_backend(name)
    except FsfastError as error:
        return False, str(error)
    if problems := backend.problems():
        return False, "; ".join(problems)
    return True, f"{backend.version()}, computes in {' and '.join(backend.arithmetics())}"


def _auto() -> tuple[bool, str]:
    """Say what backend="auto" means for the built-in engine; nothing is measured here."""
    from fsfast.engine.engine import load_engine
    from fsfast.runtime.choice import expected

    try:
        engine = load_engine("demo")
        return True, expected(engine, engine.manifest.precisions[0])
    except FsfastError as error:
        return False, str(error)


def _cuda() -> dict[str, tuple[bool, str]]:
    """Whether device="cuda" can be asked for, and with which back ends; if not, why."""
    try:
        from fsfast.backends import gpu
        from fsfast.backends.device import place
    except BackendUnavailable as error:
        return {"cuda": (False, str(error))}
    found = place.problems()
    text = "; ".join(found) or f"{place.device_class(place.cuda_device('cuda'))}, torch {place.version()}"
    findings = {"cuda": (not found, text)}
    for backend in gpu.BACKENDS:
        lacks = gpu.missing(backend)
        experimental = "experimental: it has not run on a GPU yet (docs/gpu.md)"
        text = "; ".join([*lacks, *(["no usable GPU, see cuda"] if found else []), experimental])
        findings[f"cuda {backend}"] = (not (lacks or found), text)
    return findings


def _export() -> tuple[bool, str]:
    """Whether `fsfast export` can build an engine here."""
    if missing := [name for name in export.NEEDS if find_spec(name) is None]:
        return False, f"not installed: {', '.join(missing)}; to build engines: {pip_install_extras('export')}"
    return True, "fsfast export builds engines"


def _engine() -> tuple[bool, str]:
    from fsfast.engine.engine import load_engine

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
