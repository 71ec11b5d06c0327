"""Make an engine of an ONNX file: `fsfast export onnx FILE --out DIR --mean R,G,B --std R,G,B`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsfast.commands.parser import Parser
from fsfast.engine.writer import check_target
from fsfast.errors import EngineError, FsfastError, brief

from .outside import add_arguments
from .stopping import run

if TYPE_CHECKING:
    from .onnx_file import OnnxFile


def main(argv: Sequence[str] | None = None) -> int:
    """Make the engine that the arguments describe; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        check_target(args.out, args.force)
        # torch and onnx are imported only now, so that --help and wrong arguments answer at once.
        from .onnx_file import read_onnx
        from .outside_network import in_batches
        from .outside_source import build_outside, chosen

        file = read_onnx(args.file)
        ends = chosen(file.inputs, args.input, "input"), chosen(file.outputs, args.output, "output")
        batch = ends[0].shape[0] if ends[0].shape else None
        original = in_batches(_session(file, ends[0].name, ends[1].name), batch)
        origin = ", ".join(f"{name} (sha256 {sha256})" for name, sha256 in file.hashes)
        build_outside(args, file, ends, original, Path(args.file).stem, f"ONNX: {origin}")
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export onnx: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="fsfast export onnx",
        description="Make an engine of an encoder that is an ONNX file: weights move beside the graph, any number of "
        "rows becomes possible, and parity with the file is measured. docs/engines.md says what is taken.",
    )
    parser.add_argument("file", metavar="FILE", help="an ONNX file; external data beside it is read, too")
    parser.add_argument("--input", metavar="NAME", help="of its inputs (default: the only one)")
    parser.add_argument("--output", metavar="NAME", help="of its outputs (default: the only one)")
    add_arguments(parser)
    return parser


def _session(file: OnnxFile, entry: str, target: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the file's own function; it is opened when it is first asked, after its graph was found to be harmless."""
    sessions = []

    def ask(x: np.ndarray) -> np.ndarray:
        if not sessions:
            sessions.append(_open(file))
        (found,) = sessions[0].run([target], {entry: x})
        return np.asarray(found)

    return ask


def _open(file: OnnxFile):  # type: ignore[no-untyped-def]
    # After fsfast's own import, which switches telemetry off.
    from fsfast.backends.onnxruntime.cpu import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions share no public base class.
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot open {file.path}: {brief(error)}") from None


if __name__ == "__main__":
    run("fsfast export onnx", main, "export")
